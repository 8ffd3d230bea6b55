"""Label regularisation through the command line, on the digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import Made, Outcome, on_host
from tests.saved import weights

Distill = Callable[..., Outcome]
TRAIN = ("teacher", "train", "--data", "digits", "--model", "mlp_16x1", "--epochs", 3, "-b", 64)
QUICK = ("--lr", 0.1, "--augment", "none", "--quiet")


@pytest.fixture
def groups(here: Path) -> Path:
    path = here / "groups.yaml"
    path.write_text(
        yaml.safe_dump({"round": {"one": ["0", "6"], "two": ["8", "9"]}, "7": ["1", "7"]})
    )
    return path


@pytest.mark.parametrize(
    "name",
    ["tfkd-reg", "disturb-label", "knowledge-refinery", "label-mix", "selective,label-smoothing"],
)
def test_it_trains(name: str, here: Path, distill: Distill) -> None:
    outcome = distill(*TRAIN, *QUICK, "--objective", name, "--out", "r", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["test_top1"] > 0.5
    assert found["temperature"] > 0
    assert found["test_nll_scaled"] <= found["test_nll"] + 0.02
    again = json.loads(distill("evaluate", "r", "--json").out)
    for key in ("nll", "ece", *(() if found["temperature"] == 1 else ("nll_scaled", "ece_scaled"))):
        assert again[key] == pytest.approx(found[f"test_{key}"])
    fitted = None if found["temperature"] == 1 else pytest.approx(found["temperature"])
    assert again["temperature"] == fitted


def test_groups_from_a_file(groups: Path, distill: Distill) -> None:
    given = ("--objective", "grouped-smoothing", "--groups", groups, "--label-smoothing", 0.3)
    outcome = distill(*TRAIN, *QUICK, *given, "--out", "r")
    assert outcome.code == 0, outcome.err
    [said] = json.loads(Path("r/relations.json").read_text()).values()
    # ε₁ is the flag's, ε₂ the default.
    assert said["share"][0][6] == pytest.approx(0.3 / 10 + 0.05 / 2)
    assert said["share"][0][1] == pytest.approx(0.3 / 10)


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--objective", "grouped-smoothing"), 2, "--groups"),
        (("--groups", "words"), 2, "none of these"),
        (("--objective", "grouped-smoothing", "--groups", "words"), 3, "share a group"),
        (("--objective", "grouped-smoothing", "--groups", "nowhere.yaml"), 2, "nowhere.yaml"),
        (("--objective", "disturb-label", "--label-smoothing", 0.1), 2, "cannot be combined"),
        (("--objective", "disturb-label,grouped-smoothing"), 2, "the hard label"),
        (("--objective", "selective"), 2, "none is named"),
        (("--objective", "selective,ce"), 2, "none is named"),
        (("--set", "objective=[{name: label-mix, model: nowhere}]"), 2, "there is no folder"),
        (("--set", "objective=[{name: label-mix, hard: 0.7}]"), 2, "make up one label"),
        (("--set", "objective=[{name: label-mix, rate: .inf}]"), 2, "rate: a number is finite"),
        (("--set", "objective=[{name: label-mix, rate: 'inf'}]"), 2, "rate: a number is finite"),
        (("--set", "objective=[{name: dropmax, kl_weight: .inf}]"), 2, "kl_weight: a number is"),
        (
            ("--objective", "grouped-smoothing", "--groups", "words", "--label-smoothing", 0.99),
            *(2, "shares of one label"),
        ),
        (("--objective", "d2l", "--compile"), 2, "--compile"),
        (("--objective", "dropmax", "--compile"), 2, "--compile"),
        (("--objective", "dropmax", "--label-smoothing", 0.1), 2, "by itself"),
        (("--set", "objective=[{name: label-mix, sample_from: teacher}]"), 2, "needs teachers"),
    ],
)
def test_refusals(
    given: tuple[object, ...], code: int, said: str, here: Path, distill: Distill
) -> None:
    outcome = distill(*TRAIN, *QUICK, *given, "--out", "r")
    assert outcome.code == code, outcome.err
    assert said in outcome.err
    assert not (here / "r" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": ["0", "ten"]}, "ten"),
        ({"a": ["0", "1"], "b": ["1", "2"]}, "twice"),
        ({"a": "0"}, "list"),
    ],
)
def test_malformed_groups(
    content: dict[str, object], said: str, here: Path, distill: Distill
) -> None:
    (here / "g.yaml").write_text(yaml.safe_dump(content))
    given = ("--objective", "grouped-smoothing", "--groups", "g.yaml")
    outcome = distill(*TRAIN, *QUICK, *given, "--out", "r")
    assert outcome.code == 3, outcome.err
    assert said in outcome.err


@pytest.mark.slow
def test_a_copy_teaches_a_fresh_network_in_one_command(here: Path, distill: Distill) -> None:
    outcome = distill(*TRAIN, *QUICK, "--objective", "tfkd-self", "--out", "r")
    assert outcome.code == 0, outcome.err
    copy = here / "r" / "stages" / "copy"
    said = yaml.safe_load((copy / "recipe.yaml").read_text())
    assert [entry["name"] for entry in said["objective"]] == ["ce"]
    kept = yaml.safe_load((here / "r" / "recipe.yaml").read_text())
    assert kept["teachers"] == ["r/stages/copy"]
    assert json.loads((here / "r" / "result.json").read_text())["teacher_agreement"] > 0.5
    # By hand it is the same, to the bit.
    taught = ("student", "--teachers", copy, "--objective", "tfkd-self", "--view-seed", 0)
    same = ("--model", "mlp_16x1", "--epochs", 3, "-b", 64, *QUICK, "--out", "hand")
    assert distill(*taught, *same).code == 0
    for key, value in weights(here / "r").items():
        assert torch.equal(value, weights(here / "hand")[key]), key


@on_host
def test_the_residual_matrix_resumes_to_the_bit(here: Path, distill: Distill) -> None:
    given = (*TRAIN, *QUICK, "--objective", "knowledge-refinery")
    assert distill(*given, "--out", "whole").code == 0
    from distill_cli.training.loop import Trainer

    steps = []
    original = Trainer.train_step

    def stopping(self: Trainer, batch: object) -> None:
        original(self, batch)
        steps.append(1)
        if len(steps) == 27:
            self.pauses.signal = lambda: 15

    Trainer.train_step = stopping
    try:
        assert distill(*given, "--out", "torn").code == 143
    finally:
        Trainer.train_step = original
    assert distill("teacher", "train", "--resume", "--out", "torn", "--quiet").code == 0
    for key, value in weights(here / "whole").items():
        assert torch.equal(value, weights(here / "torn")[key]), key
    parts = [
        torch.load(here / run / "last" / "checkpoint.pt", weights_only=True, map_location="cpu")[
            "parts"
        ]["adapters"]
        for run in ("whole", "torn")
    ]
    for key, value in parts[0].items():
        assert torch.equal(value, parts[1][key]), key
        assert value.abs().sum() > 0


def test_the_fitted_temperature_is_kept_with_the_model_and_used(
    made: Made, here: Path, distill: Distill
) -> None:
    # So many smoothed labels make it far too unsure.
    outcome = distill(*TRAIN, *QUICK, "--label-smoothing", 0.5, "--out", "r")
    assert outcome.code == 0
    found = json.loads((here / "r" / "result.json").read_text())
    assert found["temperature"] < 0.8
    config = json.loads((here / "r" / "model" / "config.json").read_text())
    assert config["distill"]["temperature"] == found["temperature"]
    from PIL import Image

    Image.new("L", (8, 8), 99).save("x.png")
    said = json.loads(distill("predict", "r", "x.png", "--json").out)
    assert said["temperature"] == said["fitted_temperature"] == found["temperature"]


def test_where_every_held_out_image_is_right_no_temperature_is_fitted(
    here: Path, distill: Distill
) -> None:
    """Likelihood has no maximum there: 1 in result.json, none elsewhere, and it is said."""
    from PIL import Image

    for split, count in (("train", 20), ("val", 12), ("test", 12)):
        for name, grey in (("dark", 0), ("light", 255)):
            folder = here / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (8, 8), abs(grey - number)).save(folder / f"{number}.png")
    given = ("--data", here / "data", "--model", "mlp_8x1", "--augment", "none", "-b", 8)
    outcome = distill("teacher", "train", *given, "--epochs", 3, "--out", "r", "--json")
    found = json.loads(outcome.out)
    assert found["val_top1"] == 1
    assert found["temperature"] == 1
    assert found["test_nll_scaled"] == found["test_nll"]
    assert "no temperature is fitted: every held-out image is right" in outcome.err
    assert "at the temperature" not in outcome.err
    assert "temperature, fitted" not in (here / "r" / "MODEL_CARD.md").read_text()
    assert "temperature" not in json.loads((here / "r/model/config.json").read_text())["distill"]
    assert json.loads(distill("evaluate", "r", "--json").out)["temperature"] is None


def matrix(text: str) -> list[list[str]]:
    return [line.split(",") for line in text.splitlines()]


def test_a_matrix_of_classes(here: Path, distill: Distill) -> None:
    """Rows in any order, scaled to 1; ε₂ lies as they say."""
    order = "7314926850"
    lines = [",".join(["", *order])]
    lines += [
        ",".join([y, *("2" if (y + k) in ("71", "77") else "2" if y == k else "0" for k in order)])
        for y in order
    ]
    (here / "alike.csv").write_text("\n".join(lines))
    given = "objective=[{name: grouped-smoothing, epsilon: 0, group_epsilon: 0.2}]"
    outcome = distill(*TRAIN, *QUICK, "--set", given, "--groups", "alike.csv", "--out", "r")
    assert outcome.code == 0, outcome.err
    kept = torch.load(here / "r/last/checkpoint.pt", weights_only=True, map_location="cpu")[
        "parts"
    ]["adapters"]
    [target_KK] = kept.values()
    assert target_KK[7].tolist() == pytest.approx([0, 0.1, 0, 0, 0, 0, 0, 0.9, 0, 0])
    assert target_KK[1].tolist() == pytest.approx([0, 1, 0, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("\n3,", "\nthree,"), "three"),
        (lambda text: text.replace(",1", ",-1"), "from 0 on"),
        (lambda text: text.replace(",1", ",x"), "10 numbers"),
        (lambda text: "", "the first row"),
        (lambda text: text.replace("\n3,", "\n4,"), "look at 3"),
        (lambda text: text.replace("\n3,", "\n3,0,"), "10 numbers"),
        (lambda text: text.replace(",1", ",1_0"), "10 numbers"),
        (lambda text: text.replace(",0,0,", ",1e308,1e308,"), "from 0 on"),
    ],
)
def test_a_matrix_that_does_not_fit(
    change: Callable[[str], str], said: str, here: Path, distill: Distill
) -> None:
    lines = [",0,1,2,3,4,5,6,7,8,9"]
    lines += [",".join([str(y), *("1" if y == k else "0" for k in range(10))]) for y in range(10)]
    first, rest = lines[0], "\n".join(lines[1:])
    text = change("\n" + rest)
    (here / "alike.csv").write_text(first + text if text else "")
    given = ("--objective", "grouped-smoothing", "--groups", "alike.csv", "--out", "r")
    outcome = distill(*TRAIN, *QUICK, *given)
    assert outcome.code == 3, outcome.err
    assert said in outcome.err


def test_centroids_of_a_trained_run(here: Path, distill: Distill) -> None:
    assert distill(*TRAIN, *QUICK, "--out", "a").code == 0
    mix = "objective=[{name: label-mix, hard: 0.5, relation: 0.5, sample: 0, model: a}]"
    outcome = distill(*TRAIN, *QUICK, "--set", mix, "--out", "b")
    assert outcome.code == 0, outcome.err
    kept = torch.load(here / "b/last/checkpoint.pt", weights_only=True, map_location="cpu")[
        "parts"
    ]["adapters"]
    [relation_KK] = kept.values()
    # A class is the most like itself.
    assert relation_KK.argmax(dim=1).tolist() == list(range(10))
    other = distill(*TRAIN, *QUICK, "--set", mix, "--split-seed", 5, "--out", "c")
    assert other.code == 3
    assert "held out" in other.err


def test_what_needs_no_data_is_refused_before_them(distill: Distill) -> None:
    for given in (
        ("--objective", "grouped-smoothing"),
        ("--groups", "words"),
        ("--set", "objective=[{name: label-mix, model: nowhere}]"),
        ("--objective", "d2l", "--compile"),
        ("--order", "balanced", "--augment", "mixup"),
        ("--order", "balanced", "-b", 3),
    ):
        outcome = distill("teacher", "train", "--data", "nodata", "--out", "r", *given)
        assert outcome.code == 2
        assert "nodata" not in outcome.err


def test_a_run_is_not_written_over_what_it_learns_from(here: Path, distill: Distill) -> None:
    assert distill(*TRAIN, *QUICK, "--out", "a").code == 0
    before = (here / "a/recipe.yaml").read_bytes()
    mix = ("--set", "objective=[{name: label-mix, model: a}]")
    for given in (mix, ("--init", "a"), ("--init", "a/model")):
        outcome = distill(*TRAIN, *QUICK, *given, "--out", "a", "--overwrite")
        assert (outcome.code, "learnt from" in outcome.err) == (2, True), outcome.err
    assert (here / "a/recipe.yaml").read_bytes() == before


def test_groups_that_changed_are_another_run(here: Path, groups: Path, distill: Distill) -> None:
    given = ("--objective", "grouped-smoothing", "--groups", groups, "--out", "r")
    assert distill(*TRAIN, *QUICK, *given).code == 0
    assert distill(*TRAIN, *QUICK, *given, "--resume").code == 0
    groups.write_text("round: ['0', '6', '8']")
    outcome = distill(*TRAIN, *QUICK, *given, "--resume")
    assert (outcome.code, "another recipe" in outcome.err) == (3, True), outcome.err


def test_a_stage_relates_classes_for_a_later_one(here: Path, distill: Distill) -> None:
    mix = {"name": "label-mix", "hard": 0.5, "relation": 0.5, "sample": 0, "model": "stage:a"}
    recipe = {
        **{"command": "student", "data": "digits", "model": "mlp_16x1", "epochs": 2, "lr": 0.1},
        "stages": [
            {"name": "a", "command": "teacher train"},
            {"name": "b", "command": "teacher train", "objective": [mix]},
        ],
    }
    (here / "chain.yaml").write_text(yaml.safe_dump(recipe))
    outcome = distill("student", "-r", "chain.yaml", "--out", "c", "--quiet")
    assert outcome.code == 0, outcome.err
    assert list(json.loads((here / "c/relations.json").read_text())) == ["label-mix.relation"]
