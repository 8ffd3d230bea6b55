"""A teacher with other classes, or the same in another order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.models import load_model
from distill_cli.pipeline.inputs.class_maps import columns_of, map_of
from distill_cli.teachers.live import LiveTeacher
from distill_cli.types import Batch
from tests.conftest import Made, Outcome
from tests.saved import same, weights

Distill = Callable[..., Outcome]
TINY = ("--model", "mlp_8x1", "--epochs", 1, "--quiet")
# Matrix kernels round a column differently at another place; not so in fp64, rounded to fp32.
EXACT = ("--teacher-precision", "fp64")
ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


def shuffled(run: Path, to: Path, names: dict[str, str] | None = None) -> Path:
    """The same network with its outputs in another order; under other names where given."""
    shutil.copytree(run / "model", to)
    path = to / "config.json"
    config = json.loads(path.read_text())
    old = config["label_names"]
    config["label_names"] = [(names or {}).get(old[k], old[k]) for k in ORDER]
    config["distill"]["class_names"] = config["label_names"]
    del config["distill"]["checksum"]
    path.write_text(json.dumps(config))
    tensors = load_file(to / "model.safetensors")
    last = [key for key in tensors if tensors[key].shape[0] == 10]
    assert len(last) == 2
    for key in last:
        tensors[key] = tensors[key][torch.tensor(ORDER)].contiguous()
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def digits(root: Path, classes: tuple[int, ...], rows: int = 12) -> Path:
    """Some classes of the digits as a folder of images, by their names."""
    from sklearn.datasets import load_digits

    data = load_digits()
    for label in classes:
        chosen = data.images[data.target == label][: 2 * rows]
        for index, image in enumerate(chosen):
            folder = root / ("train" if index < rows else "test") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (image * 255 / 16).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return root


def test_by_name_is_the_teacher_in_its_own_order_to_the_bit(
    made: Made, here: Path, distill: Distill
) -> None:
    other = shuffled(made.teacher, here / "t")
    common = (*EXACT, "--data", "digits", "--augment", "shift:1", *TINY)
    assert distill("student", "--teachers", made.teacher, "--out", "a", *common).code == 0
    refused = distill("student", "--teachers", other, "--out", "b", *common)
    assert refused.code == 3
    assert "--class-map" in refused.err
    mapped = ("student", "--teachers", other, "--class-map", "by-name", *common)
    outcome = distill(*mapped, "--out", "b")
    assert outcome.code == 0, outcome.err
    assert same(here / "a", here / "b")
    figures = [json.loads((here / run / "result.json").read_text()) for run in "ab"]
    for key in ("teacher_agreement", "teacher_kl", "test_nll"):
        assert figures[0][key] == figures[1][key]


def test_a_file_names_classes_or_outputs(made: Made, here: Path, distill: Distill) -> None:
    names = {str(k): f"digit {k}" for k in range(10)}
    other = shuffled(made.teacher, here / "t", names)
    (here / "names.yaml").write_text(yaml.safe_dump(names))
    outputs = {str(k): ORDER.index(k) for k in range(10)}
    (here / "outputs.yaml").write_text(yaml.safe_dump(outputs))
    common = (*EXACT, "--data", "digits", "--augment", "shift:1", *TINY)
    assert distill("student", "--teachers", made.teacher, "--out", "a", *common).code == 0
    for spec in ("names", "outputs"):
        outcome = distill(
            *("student", "--teachers", other, "--class-map", f"{spec}.yaml", "--out", spec),
            *common,
        )
        assert outcome.code == 0, outcome.err
        assert same(here / "a", here / spec)


def test_one_map_for_each_of_several(made: Made, here: Path, distill: Distill) -> None:
    names = {str(k): f"digit {k}" for k in range(10)}
    shuffled(made.teacher, here / "t", names)
    shuffled(made.other, here / "u")
    (here / "names.yaml").write_text(yaml.safe_dump(names))
    common = (*EXACT, "--data", "digits", "--augment", "shift:1", *TINY)
    both = f"{made.teacher},{made.other}"
    assert distill("student", "--teachers", both, "--out", "a", *common).code == 0
    mapped = ("student", "--teachers", "t,u", "--class-map", "names.yaml,by-name")
    outcome = distill(*mapped, "--out", "b", *common)
    assert outcome.code == 0, outcome.err
    assert same(here / "a", here / "b")
    three = distill(*mapped[:-1], "by-name,by-name,by-name", "--out", "c", *common)
    assert three.code == 2
    assert "3 class maps for 2 teachers" in three.err
    # The number of maps is wrong, whether or not they are needed.
    two = distill(
        *("student", "--teachers", made.teacher, "--class-map", "by-name,by-name"),
        *("--out", "c", *common),
    )
    assert two.code == 2, two.err


def test_a_subset_is_renormalised_over_its_columns(made: Made) -> None:
    network = load_model(made.teacher)
    columns = [7, 2, 3, 9]
    live = LiveTeacher(
        network, torch.device("cpu"), class_names=tuple(map(str, columns)), columns=columns
    )
    row = torch.arange(5)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(images_BCHW=images, target_B=row, index_B=row, view_B=row, step=0)
    with torch.no_grad():
        plain = network(images)
    for temperature in (1.0, 4.0):
        every = (plain / temperature).softmax(dim=-1)[:, columns]
        expected = every / every.sum(dim=-1, keepdim=True)
        got = live.signals(batch).log_probs(temperature).exp()
        assert torch.allclose(got, expected, rtol=1e-5, atol=1e-7)
    live.watch(("layers.0",))
    assert torch.equal(live.signals(batch).logits_BK, plain[:, columns])
    plainly = LiveTeacher(network, torch.device("cpu"))
    assert live.fingerprint != plainly.fingerprint
    other = LiveTeacher(
        network, torch.device("cpu"), class_names=tuple("2739"), columns=[2, 7, 3, 9]
    )
    assert live.fingerprint != other.fingerprint


def test_data_with_some_of_the_teachers_classes(made: Made, here: Path, distill: Distill) -> None:
    digits(here / "data", (7, 2, 3, 9))
    args = ("student", "--teachers", made.teacher, "--data", "data", "-b", 8, *TINY)
    refused = distill(*args, "--out", "a")
    assert refused.code == 3
    assert "10 classes" in refused.err
    outcome = distill(*args, "--class-map", "by-name", "--out", "a")
    assert outcome.code == 0, outcome.err
    config = json.loads((here / "a/model/config.json").read_text())
    assert config["num_classes"] == 4
    assert json.loads((here / "a/result.json").read_text())["teacher_agreement"] > 0
    # The gate speaks of the mapped classes: a wrong map is no better than chance.
    (here / "wrong.yaml").write_text("{'2': 3, '3': 2, '7': 9, '9': 7}")
    wrong = distill(*args, "--class-map", "wrong.yaml", "--out", "b")
    assert wrong.code == 3
    assert "held-out" in wrong.err


DATA, TEACHER = ["cat", "dog", "7"], ["dog", "cat", "7", "emu"]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("{cat: cat, dog: dog, 7: 7}", [1, 0, 2]),
        ("{cat: emu, dog: 1, '7': 0}", [3, 1, 0]),
        ("{cat: 2, dog: 7, 7: 3}", None),  # the second output twice: 7 is a class first
        ("{cat: 0, dog: 3, 7: 7}", [0, 3, 2]),
    ],
)
def test_columns(tmp_path: Path, content: str, columns: list[int] | None) -> None:
    (tmp_path / "m.yaml").write_text(content)
    ask = (str(tmp_path / "m.yaml"), "t", TEACHER, DATA)
    if columns is None:
        with pytest.raises(ArtifactError, match="2 classes of the data are '7'"):
            columns_of(*ask)
    else:
        assert columns_of(*ask) == columns


def test_by_name() -> None:
    assert columns_of("by-name", "t", TEACHER, DATA) == [1, 0, 2]
    with pytest.raises(ArtifactError, match="no class 'cow'"):
        columns_of("by-name", "t", TEACHER, [*DATA, "cow"])


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("{cat: cat, dog: dog}", ArtifactError, "says nothing of class '7'"),
        ("{cat: cat, dog: dog, 7: 7, cow: 1}", ArtifactError, "no class 'cow'"),
        ("{cat: cat, dog: dgo, 7: 7}", ArtifactError, "no class 'dgo'"),
        ("{cat: cat, dog: 4, 7: 7}", ArtifactError, "no class '4'"),
        ("{cat: cat, dog: -1, 7: 7}", ArtifactError, "no class '-1'"),
        ("{cat: cat, dog: true, 7: 7}", ArtifactError, "no class 'True'"),
        ("{cat: cat, dog: cat, 7: 7}", ArtifactError, "2 classes of the data are 'cat'"),
        ("{cat: cat, dog: [1], 7: 7}", ArtifactError, "no class"),
        ("- cat\n- dog\n", UsageError, "must be a mapping"),
        ("{cat: [", UsageError, "not valid YAML"),
        ("", UsageError, "must be a mapping"),
    ],
)
def test_maps_that_are_refused(
    tmp_path: Path, content: str, error: type[Exception], said: str
) -> None:
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(error) as raised:
        columns_of(str(tmp_path / "m.yaml"), "t", TEACHER, DATA)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        columns_of(str(tmp_path / "none.yaml"), "t", TEACHER, DATA)
    with pytest.raises(UsageError, match="directory"):
        columns_of(str(tmp_path), "t", TEACHER, DATA)
    (tmp_path / "m.yaml").write_bytes(b"cat: \xff\xfe")
    with pytest.raises(UsageError, match="not valid YAML"):
        columns_of(str(tmp_path / "m.yaml"), "t", TEACHER, DATA)


def test_which_map_is_whose() -> None:
    assert [map_of(["x"], place, 2) for place in range(2)] == ["x", "x"]
    assert [map_of(["x", "y"], place, 2) for place in range(2)] == ["x", "y"]
    with pytest.raises(UsageError, match="2 class maps for 3 teachers"):
        map_of(["x", "y"], 0, 3)


def test_codes_at_the_command_line(made: Made, here: Path, distill: Distill) -> None:
    shuffled(made.teacher, here / "t")
    (here / "short.yaml").write_text("{'0': 0}")
    (here / "list.yaml").write_text("- 1\n")
    args = ("student", "--teachers", "t", "--data", "digits", "--out", "s", *TINY, "--class-map")
    for spec, code in (("none.yaml", 2), ("list.yaml", 2), ("short.yaml", 3)):
        outcome = distill(*args, spec)
        assert outcome.code == code, outcome.err
        assert len(outcome.err.strip().splitlines()) == 1
    assert not (here / "s").exists()


def test_a_cache_is_of_one_map(made: Made, here: Path, distill: Distill) -> None:
    digits(here / "data", (7, 2, 3, 9))
    (here / "names.yaml").write_text("{'2': '2', '3': '3', '7': '7', '9': '9'}")
    (here / "turned.yaml").write_text("{'2': '3', '3': '2', '7': '7', '9': '9'}")
    dump = ("cache-soft-labels", "--teachers", made.teacher, "--data", "data", "--force")
    dump = (*dump, "--augment", "none", "--out", "c", "--quiet")
    outcome = distill(*dump, "--class-map", "by-name")
    assert outcome.code == 0, outcome.err
    before = {path: path.read_bytes() for path in (here / "c").rglob("*.safetensors")}
    # The same map by other words goes on.
    assert distill(*dump, "--class-map", "names.yaml").code == 0
    for other in (("--class-map", "turned.yaml"), ()):
        refused = distill(*dump, *other)
        assert refused.code == 3, refused.err
    assert before == {path: path.read_bytes() for path in (here / "c").rglob("*.safetensors")}
    plan = json.loads((here / "c/plan.json").read_text())
    assert plan["classes"] == ["2", "3", "7", "9"] or plan["class_names"] == ["2", "3", "7", "9"]
    live = ("student", "--data", "data", "-b", 8, "--set", "view_seed=0", "--augment", "none")
    teach = (*live, "--class-map", "by-name", "--teachers", made.teacher)
    assert distill(*teach, "--out", "live", *TINY).code == 0
    # A cache speaks of the data's classes itself.
    assert distill(*live, "--teachers", "c", "--out", "cached", *TINY).code == 0
    one, two = weights(here / "live"), weights(here / "cached")
    assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-5) for key in one)
