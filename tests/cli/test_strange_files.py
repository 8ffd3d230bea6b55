"""Files that somebody else wrote, or that were changed: each refused in one line, with its place."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill_cli.cache.figures import check_figures
from distill_cli.cache.manifest import read_manifest
from distill_cli.errors import ArtifactError
from tests.conftest import Made, Outcome
from tests.reliability import Reliability

Distill = Callable[..., Outcome]
TINY = ("--model", "mlp_8x1", "--epochs", 1, "--quiet")


def one_line(outcome: Outcome) -> str:
    [line] = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    return line


def forged(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


@pytest.fixture
def labels(made: Made, here: Path) -> Path:
    shutil.copytree(made.labels / "a", here / "labels")
    return Path("labels")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher_accuracy": 4.2}, "'teacher_accuracy' should be from 0 to 1, is 4.2"),
        ({"teacher_nll": -7.0}, "'teacher_nll' should be from 0 on, is -7"),
        ({"entropy": 50}, "'entropy' should be from 0 to 2.30259, is 50"),
    ],
)
def test_figures_that_cannot_be_are_refused_wherever_a_cache_is_read(
    change: dict[str, float], said: str, labels: Path, distill: Distill
) -> None:
    forged(labels / "manifest.json", lambda manifest: manifest.update(change))
    for command in (
        ("cache", "info", labels),
        ("cache", "verify", labels),
        ("student", "--teachers", labels, "--out", "s", *TINY),
    ):
        outcome = distill(*command)
        assert outcome.code == 3
        assert f"labels/manifest.json is malformed: {said}" in one_line(outcome)
        assert "420" not in outcome.out
    assert not Path("s").exists()


def test_a_cache_says_what_its_shards_say(
    labels: Path, distill: Distill, reliability: Reliability
) -> None:
    assert distill("cache", "info", labels).code == 0
    forged(labels / "manifest.json", lambda manifest: manifest.update(teacher_accuracy=0.999))
    for command in ("info", "verify"):
        outcome = distill("cache", command, labels)
        assert outcome.code == 3
        assert "has teacher_accuracy 0.999, the sums in its shards give 0." in one_line(outcome)
    forged(labels / "manifest.json", lambda manifest: manifest.update(teacher_accuracy=4.2))
    outcome = distill("cache", "info", labels)
    reliability(
        *("Caches", "a manifest says that its teacher is right on 420 %"),
        *("distill cache info labels", outcome),
    )


@pytest.mark.parametrize("accuracy", [0.999, 4.2])
def test_the_command_of_the_dump_computes_forged_figures_again(
    made: Made, labels: Path, distill: Distill, accuracy: float
) -> None:
    before = (labels / "manifest.json").read_bytes()
    forged(labels / "manifest.json", lambda manifest: manifest.update(teacher_accuracy=accuracy))
    outcome = distill(
        *("cache-soft-labels", "--teachers", made.teacher, "--views", 2, "--augment", "shift:1"),
        *("--shard-length", 600, "--out", labels, "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    assert (labels / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("key", ["labelled", "teacher_nll", "teacher_ece", "entropy"])
def test_each_figure_is_computed_again(key: str, labels: Path) -> None:
    check_figures(labels, read_manifest(labels))
    manifest = json.loads((labels / "manifest.json").read_text())
    changed = manifest[key] * 0.9
    if key == "labelled":
        # Consistent with itself, and with no shard.
        changed = manifest[key] - 1
        bins = manifest["calibration"]["labelled"]
        bins[bins.index(max(bins))] -= 1
        right = manifest["calibration"]["correct"]
        right[right.index(max(right))] -= 1
        confidence = manifest["calibration"]["confidence"]
        confidence[confidence.index(max(confidence))] -= 1
    (labels / "manifest.json").write_text(json.dumps({**manifest, key: changed}))
    with pytest.raises(ArtifactError, match=f"has {key} .*, the sums in its shards give"):
        check_figures(labels, read_manifest(labels))


@pytest.mark.parametrize("version", ["kept-0.2.0", "kept-0.3.0", "folders-0.3.0"])
def test_caches_of_earlier_versions_have_the_figures_of_their_shards(version: str) -> None:
    folder = Path(__file__).parents[1] / "fixtures" / version / "labels"
    check_figures(folder, read_manifest(folder))


def test_a_cache_that_lacks_a_shard_has_no_figures(labels: Path, distill: Distill) -> None:
    shard = labels / "view-0001" / "shard-00001.safetensors"
    shard.unlink()
    outcome = distill("cache", "info", labels)
    assert outcome.code == 3
    assert f"{shard} is missing" in one_line(outcome)


def test_a_recipe_that_is_nested_without_end(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    Path("deep.yaml").write_text("model_args: " + "[" * 100_000)
    outcome = distill("recipes", "validate", "deep.yaml")
    assert outcome.code == 2
    assert "line 1, column 76: it is nested more than 64 levels deep" in one_line(outcome)
    reliability(
        *("Usage and recipes", "a recipe is nested without end"),
        *("distill recipes validate deep.yaml", outcome),
    )


def test_a_kept_recipe_that_is_damaged_is_a_fault_of_the_run(
    made: Made, here: Path, distill: Distill
) -> None:
    shutil.copytree(made.teacher, "t")
    Path("t/recipe.yaml").write_text("command: teacher train\nrecorded: 5\n")
    outcome = distill("student", "--teachers", "t", "--out", "s", *TINY)
    assert outcome.code == 3
    assert "t/recipe.yaml is malformed: recorded should be keys and values" in one_line(outcome)
    Path("t/recipe.yaml").write_text("command: [\n")
    assert distill("student", "--teachers", "t", "--out", "s", *TINY).code == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["model_args"].update(drop_rate="a"), "model_args.drop_rate is a share"),
        (lambda c: c["model_args"].update(drop_rate=-1), "from 0 to below 1, not -1"),
        (lambda c: c["model_args"].update(width=10**7), "larger than model.safetensors"),
        (lambda c: c["model_args"].update(depth=1_000_000), "larger than model.safetensors"),
        (lambda c: c["model_args"].update(width=10**18), "model_args.width is 1e+18"),
        (lambda c: c["model_args"].update(a={"b": {"c": {"d": {"e": {}}}}}), "nested too deep"),
        (lambda c: c["distill"].update(temperature=1e-300), "temperature is a number from 0.0001"),
        (lambda c: c["distill"].update(std=[1e-40]), "mean and std are those of pixels"),
        (lambda c: c["distill"].update(mean=["a"]), "mean and std are finite numbers"),
        (lambda c: c["distill"].update(input_size=[1, 50_000, 8]), "4,096 at most"),
        (lambda c: c["distill"].update(input_size=[1, 9, 9]), "cannot be multiplied|shapes"),
        (lambda c: c["distill"]["view"].update(height=10**6), "4,096 at most"),
        (lambda c: c["distill"].update(class_names=[1] * 10), "texts of a line at most"),
    ],
)
def test_a_config_out_of_range_is_no_network(
    change: Callable[[dict[str, Any]], object], said: str, made: Made, here: Path, distill: Distill
) -> None:
    shutil.copytree(made.teacher / "model", "m")
    Image.new("L", (8, 8)).save("a.png")
    forged(Path("m/config.json"), change)
    outcome = distill("predict", "m", "a.png")
    assert outcome.code == 3
    assert "m/config.json" in one_line(outcome)
    assert any(part in one_line(outcome) for part in said.split("|"))


def test_a_config_whose_dropout_is_a_letter(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    shutil.copytree(made.teacher / "model", "m")
    Image.new("L", (8, 8)).save("a.png")
    forged(Path("m/config.json"), lambda config: config["model_args"].update(drop_rate="a"))
    reliability(
        *("Models and checkpoints", "a model's config.json has a letter for its dropout"),
        *("distill predict m a.png", distill("predict", "m", "a.png")),
    )


def photos(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def test_a_member_of_a_zip_that_is_a_bomb(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    photos(Path("data"))
    with zipfile.ZipFile("data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(Path("data").rglob("*.png")):
            archive.write(file, file.relative_to("data"))
        archive.writestr("train/cat/bomb.png", bytes(20 << 20))
    train = ("teacher", "train", "--data", "data.zip", "--out", "t", *TINY)
    outcome = distill(*train)
    assert outcome.code == 3
    assert "data.zip!train/cat/bomb.png: it unpacks to over 200 times its size" in one_line(outcome)
    reliability(
        *("Data", "an image in a zip is 20 MB of zeros"),
        *("distill teacher train --data data.zip", outcome),
    )
    assert distill(*train, "--skip-bad", "-b", 4).code == 0
    assert "bomb.png" in Path("t/skipped.txt").read_text()


def test_a_table_whose_path_is_too_long(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    photos(Path("data"))
    rows = [f"{file},{file.parent.name}" for file in sorted(Path("data").rglob("*.png"))]
    for path in (f"data/{'x' * 5000}.png", "data/\0.png"):
        Path("table.csv").write_text("\n".join(["file,label", *rows, f"{path},cat"]))
        outcome = distill("teacher", "train", "--data", "table.csv", "--out", "t", *TINY)
        assert outcome.code == 3
        assert "table.csv" in one_line(outcome)
    Path("table.csv").write_text("\n".join(["file,label", f"{'x' * 5000}.png,cat"]))
    outcome = distill("teacher", "train", "--data", "table.csv", "--out", "t", *TINY)
    assert "row 2: 'xxxx" in one_line(outcome)
    reliability(
        *("Data", "a table lists a path of 5,000 characters"),
        *("distill teacher train --data table.csv", outcome),
    )


def _claiming(file: Path, side: int) -> None:
    """A PNG that says that it has so many pixels a side, with its checksum."""
    content = bytearray(file.read_bytes())
    struct.pack_into(">II", content, 16, side, side)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    file.write_bytes(content)


def test_a_picture_of_more_megapixels_than_the_option_allows(
    made: Made, here: Path, distill: Distill, reliability: Reliability
) -> None:
    photos(Path("data"))
    large = Path("data/train/cat/0.png")
    _claiming(large, 20_000)
    train = ("teacher", "train", "--data", "data", "--size", 8, "--out", "t", *TINY)
    outcome = distill(*train)
    assert outcome.code == 3
    assert f"{large}: it has more than 200 megapixels, the limit of --max-megapixels" in one_line(
        outcome
    )
    reliability(
        *("Data", "a picture says that it has 400 megapixels"),
        *("distill teacher train --data data", outcome),
    )
    assert distill("predict", made.teacher, large).code == 3
    # A smaller limit shows that each verb has the option: these pictures have 2.25 megapixels.
    Image.new("L", (1500, 1500)).save(large)
    assert distill("predict", made.teacher, large).code == 0
    assert distill("predict", made.teacher, large, "--max-megapixels", 2).code == 3
    outcome = distill(*train, "--max-megapixels", 2)
    assert outcome.code == 3
    assert "more than 2 megapixels" in one_line(outcome)
    assert distill(*train, "--max-megapixels", 3, "-b", 4).code == 0
    assert "max_megapixels: 3" in Path("t/recipe.yaml").read_text()
    assert distill("evaluate", "t").code == 0, "it has the run's limit"
    # Another limit is no other training.
    Image.new("L", (1500, 1500)).save("data/test/cat/0.png")
    assert distill("evaluate", "t", "--max-megapixels", 1).code == 3
    assert distill("evaluate", "t", "--max-megapixels", 1, "--skip-bad").code == 0
