"""Which layers are paired, and which teachers cannot be asked for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from distill_cli.errors import UsageError
from distill_cli.models import InputSpec, Network, create_network
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import Pair
from distill_cli.objectives.compose import Composition, Weight, Weighted
from distill_cli.pipeline.objective.entries import entry_of
from distill_cli.pipeline.objective.layers import Layers, find_layers
from distill_cli.teachers.live import LiveTeacher
from distill_cli.types import PENULTIMATE, Batch
from tests.conftest import Made, Outcome, invoke

Distill = Callable[..., Outcome]
TINY = ("--model", "mlp_8x1", "--epochs", 1, "--quiet")


def network(name: str) -> Network:
    view = InputSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.manual_seed(0)
    return create_network(name, class_names=("a", "b"), view=view)


def found(
    objective: str,
    student: str = "cifar_resnet8",
    teacher: str = "test_resnet",
    pairs: tuple[Pair, ...] = (),
    stop: bool = False,
) -> tuple[Layers, LiveTeacher]:
    live = LiveTeacher(network(teacher), torch.device("cpu"))
    part = Weighted(objective=OBJECTIVES[objective](pairs=pairs), weight=Weight(start=1.0))
    return find_layers(Composition((part,)), network(student), live, stop=stop), live


def pairs_of(layers: Layers) -> list[Pair]:
    return [(entry["student"], entry["teacher"]) for entry in layers.recorded]


def test_rules() -> None:
    assert pairs_of(found("hint")[0]) == [("stages.1", "layer2")]
    # From the last to the first, as far as both have resolutions.
    own, other = zip(*pairs_of(found("attention")[0]), strict=True)
    assert own == ("stages.0", "stages.1", "stages.2")
    assert other[-1] == pairs_of(found("similarity")[0])[0][1]
    assert pairs_of(found("rkd")[0]) == [(PENULTIMATE, PENULTIMATE)]
    assert pairs_of(found("similarity")[0])[0][0] == "stages.2"


def test_of_more_layers_the_last_are_paired() -> None:
    layers, _ = found("attention", student="cifar_resnet8", teacher="fitnet_1")
    assert [own for own, _ in pairs_of(layers)] == ["stages.0", "stages.1", "stages.2"]
    layers, _ = found("attention", student="mlp_8x2", teacher="cifar_resnet8")
    assert pairs_of(layers)[-1][1] == "stages.2"
    assert len(pairs_of(layers)) <= 3


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("auto", "layer1"), ("stages.1", "layer1")),
        (("stages.0.0", "auto"), ("stages.0.0", "layer2")),
        (("auto", "auto"), ("stages.1", "layer2")),
        (("stages.0.0.conv1", "penultimate"), ("stages.0.0.conv1", "penultimate")),
    ],
)
def test_auto_leaves_one_side_to_the_rule(given: Pair, wanted: Pair) -> None:
    layers, live = found("hint", pairs=(given,))
    assert pairs_of(layers) == [wanted]
    assert layers.taps == (wanted[0],)
    assert live.taps == (wanted[1],)
    (part,) = layers.composition.parts
    assert part.objective.pairs == (wanted,)


def test_what_is_recorded_is_what_was_built() -> None:
    layers, live = found("hint", pairs=(("stages.0", "layer3"), ("stages.0", "layer2")), stop=True)
    assert layers.taps == ("stages.0",), "asked for once, used twice"
    assert live.taps == ("layer3", "layer2")
    assert live.stops
    said = {name: tuple(feature.shape[1:]) for name, feature in _said(live).items()}
    for entry, regressor in zip(layers.recorded, layers.adapters["hint"], strict=True):
        assert entry["objective"] == "hint"
        assert entry["student_shape"] == [16, 32, 32]
        assert tuple(entry["teacher_shape"]) == said[entry["teacher"]]
        assert entry["regressor"] == regressor.description
        assert entry["regressor_params"] == sum(p.numel() for p in regressor.parameters())
    assert len(layers.descriptions) == 2
    assert "16×32×32" in layers.descriptions[0]


@pytest.mark.parametrize(
    ("student", "normalises", "share"),
    [
        ("cifar_resnet8", True, 1.0),
        ("mlp_8x2", False, 0.01),
        ("test_vit", True, 1.0),
        ("test_nfnet", False, 0.01),
    ],
)
def test_a_student_that_does_not_normalise_gets_a_share_of_the_hints_gradient(
    student: str, normalises: bool, share: float
) -> None:
    layers, _ = found("hint", student=student)
    [regressor] = layers.adapters["hint"]
    assert regressor.norm is not None
    assert regressor.gradient_scale == share
    [part] = layers.composition.parts
    assert entry_of(part)["gradient_scale"] == share, "a run records what it was"
    assert ("% of its gradient" in layers.descriptions[0]) == (not normalises)


def _said(live: LiveTeacher) -> dict[str, torch.Tensor]:
    row = torch.arange(2)
    batch = Batch(
        images_BCHW=torch.rand(2, 3, 32, 32), target_B=row, index_B=row, view_B=row, step=0
    )
    return dict(live.signals(batch).features)


@pytest.mark.parametrize("pair", [("stages.7", "auto"), ("auto", "layer9")])
def test_unknown_layers_are_refused(pair: Pair) -> None:
    with pytest.raises(UsageError, match="has no layer"):
        found("hint", pairs=(pair,))


@pytest.fixture(scope="module")
def likeliest(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the three likeliest classes."""
    out = tmp_path_factory.mktemp("likeliest") / "labels"
    outcome = invoke(
        *("cache-soft-labels", "--teachers", made.teacher, "--codec", "topk:3"),
        *("--out", out, "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    return out


REFUSED = [
    *((("--objective", name), "cache", 3, "run folder") for name in ("hint", "attention")),
    *((("--objective", name), "cache", 3, "run folder") for name in ("similarity", "rkd")),
    *((("--objective", name), "two", 2, "one teacher") for name in ("hint", "attention")),
    *((("--objective", name), "two", 2, "one teacher") for name in ("similarity", "rkd")),
    (("--objective", "hint", "--mode", "random"), "two", 2, "one teacher"),
    (("--objective", "hint", "--mode", "relabel"), "two", 2, "one teacher"),
    (("--objective", "hint", "--ensemble-of", "logits"), "two", 2, "one teacher"),
    (("--objective", "hint"), "mixed", 3, "cache"),
    (("--objective", "logit-standardisation"), "likeliest", 3, "--codec fp16"),
    (("--objective", "logit-standardisation"), "two", 2, "--ensemble-of logits"),
    (("--objective", "logit-standardisation"), "both", 2, "--ensemble-of logits"),
    (("--ensemble-of", "logits"), "with-likeliest", 3, "--codec fp16"),
    *((("--objective", n, "--accumulate", 2), "one", 2, "--accumulate") for n in ("dist", "rkd")),
    (("--objective", "similarity", "--accumulate", 2), "one", 2, "--accumulate"),
    (("--objective", "hint", "--accumulate", 2), "one", 2, "--accumulate"),
    (("--objective", "hint", "--batch-size", 1), "one", 2, "one value of each channel"),
    (("--objective", "hint", "--compile"), "one", 2, "--compile"),
    (("--ensemble-of", "logits", "--mode", "random"), "two", 2, "--ensemble-of"),
    (("--ensemble-of", "logits"), "one", 2, "--ensemble-of"),
    (("--random-per", "sample"), "two", 2, "--random-per"),
    (("--random-per", "sample", "--mode", "ensemble"), "two", 2, "--random-per"),
    (("--mode", "relabel", "--teacher-weights", "1,1"), "two", 2, "leave the weights out"),
    (("--mode", "single"), "two", 2, "relabel"),
    (("--objective", "kd", "--hint-layer", "layers.0"), "one", 2, "no hint"),
    (("--objective", "hint", "--hint-layer", "layers.7"), "one", 2, "layers.0"),
    (("--objective", "hint", "--guided-layer", "layers"), "one", 2, "no features"),
    (("--hint-epochs", 2), "one", 2, "--hints"),
]


@pytest.mark.parametrize(("args", "teachers", "code", "said"), REFUSED)
def test_refusals(
    made: Made,
    likeliest: Path,
    here: Path,
    distill: Distill,
    args: tuple[object, ...],
    teachers: str,
    code: int,
    said: str,
) -> None:
    named = {
        "one": [made.teacher],
        "two": [made.teacher, made.other],
        "cache": [made.labels / "a"],
        "both": [made.labels],
        "mixed": [made.labels / "a", made.other],
        "likeliest": [likeliest],
        "with-likeliest": [likeliest, made.other],
    }[teachers]
    outcome = distill(
        "student", "--teachers", ",".join(map(str, named)), *TINY, *args, "--out", here / "s"
    )
    assert outcome.code == code, outcome.err
    (line,) = outcome.err.strip().splitlines()
    assert said in line
    assert not (here / "s").exists(), "nothing is written"


@pytest.mark.parametrize(
    "args",
    [
        ("--objective", "logit-standardisation", "--ensemble-of", "logits"),
        ("--objective", "logit-standardisation", "--mode", "relabel"),
        ("--objective", "logit-standardisation", "--mode", "random", "--random-per", "sample"),
        ("--objective", "kd", "--accumulate", 2),
    ],
)
def test_what_can_be_asked_runs(
    made: Made, here: Path, distill: Distill, args: tuple[object, ...]
) -> None:
    teachers = f"{made.teacher},{made.other}"
    outcome = distill("student", "--teachers", teachers, *TINY, *args, "--out", "s")
    assert outcome.code == 0, outcome.err


def test_one_teacher_of_any_mode_has_layers(made: Made, here: Path, distill: Distill) -> None:
    for mode in ("relabel", "ensemble", "random"):
        outcome = distill(
            *("student", "--teachers", made.teacher, "--mode", mode, "--objective", "hint"),
            *("--out", mode, *TINY),
        )
        assert outcome.code == 0, outcome.err


def test_the_run_keeps_its_layers(made: Made, here: Path, distill: Distill) -> None:
    outcome = distill(
        *("student", "--teachers", made.teacher, "--objective", "kd,hint", "--out", "s"),
        *("--model", "mlp_8x2", "--epochs", 1, "--hint-layer", "layers.0"),
    )
    assert outcome.code == 0, outcome.err
    recipe = yaml.safe_load((here / "s/recipe.yaml").read_text())
    (entry,) = recipe["recorded"]["layers"]
    assert entry["teacher"] == "layers.0"
    assert entry["teacher_shape"] == [32, 1, 1]
    assert entry["student_shape"] == [8, 1, 1]
    words = " ".join(outcome.err.split())
    assert "regressor (1×1 convolution, batch norm, 1 % of its gradient to the student" in words
    assert entry["regressor_params"] == 8 * 32 + 2 * 32


def test_layers_named_beside_a_list_of_objectives_are_not_ignored(
    made: Made, here: Path, distill: Distill
) -> None:
    (here / "r.yaml").write_text("objective:\n  - {name: kd}\n  - {name: ce}\n  - {name: hint}\n")
    args = ("student", "-r", "r.yaml", "--teachers", made.teacher, *TINY, "--out", "s")
    outcome = distill(*args, "--hint-layer", "layers.0")
    assert outcome.code == 2, outcome.err
    assert "hint_layer" in outcome.err
    assert distill(*args).code == 0
