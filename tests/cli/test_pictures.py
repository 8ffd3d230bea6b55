"""Odd pictures through the verbs: each sees the pixels that every other sees."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import yaml
from PIL import Image

from distill_cli.models import load_model, save_temperature
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.report.model_readme import model_readme
from distill_cli.types import RunResult
from tests.conftest import Made, Outcome, invoke
from tests.data.odd_pictures import noise, odd_data, odd_pictures, tagged
from tests.report.made import FIGURES

Distill = Callable[..., Outcome]
# A network that takes images of another size than its views have.
TINY = "{img_size: 32, patch_size: 8, embed_dim: 8, depth: 1, num_heads: 2}"
TRAINING = ("--epochs", 12, "--lr", 0.01, "-b", 16, "--precision", "fp32", "-j", 0, "--quiet")
FRAMING = {"resize": "floor", "orientation": "exif", "background": "white"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on odd pictures, `photos`, beside it a cache of its labels."""
    root = tmp_path_factory.mktemp("odd")
    odd_data(root / "photos")
    model = ("--model", "vit_tiny_patch16_224", "--set", f"model_args={TINY}")
    outcome = invoke(
        *("teacher", "train", "--data", root / "photos", "--size", 20, "--out", root / "t"),
        *(*model, *TRAINING),
    )
    assert outcome.code == 0, outcome.err
    outcome = invoke(
        *("cache-soft-labels", "--teachers", root / "t", "--out", root / "labels"),
        *("--augment", "none", "--force", "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    return root / "t"


def predicted_nll(distill: Distill, model: Path, *pictures: Path) -> float:
    """Mean NLL of what `predict` says, by the folder that each picture lies in."""
    outcome = distill("predict", model, *pictures, "-T", 1, "--json")
    assert outcome.code == 0, outcome.err
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    rights = [line["probabilities"][Path(line["image"]).parent.name] for line in lines]
    return -sum(map(math.log, rights)) / len(rights)


def test_predict_sees_what_evaluate_sees(teacher: Path, distill: Distill) -> None:
    evaluated = json.loads(distill("evaluate", teacher, "--json").out)["nll"]
    photos = teacher.parent / "photos"
    assert predicted_nll(distill, teacher, photos / "test") == pytest.approx(evaluated, abs=1e-6)
    labels = teacher.parent / "labels"
    beside = json.loads(distill("evaluate", teacher, "--teacher", labels, "--json").out)
    assert (beside["teacher_agreement"], beside["nll"]) == (1, evaluated)
    assert beside["teacher_kl"] == pytest.approx(0, abs=1e-6)
    verified = distill("cache", "verify", labels, "--sample", 20)
    assert verified.code == 0, verified.err


@pytest.mark.parametrize("side", [48, 200])
def test_data_of_another_size_are_seen_so_too(
    teacher: Path, here: Path, distill: Distill, side: int
) -> None:
    """Where all have one size, evaluate showed these, and predict others."""
    for split in ("train", "test"):
        for number in range(8):
            path = here / "other" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = tagged(1 + number)
            size = (side, side + 9) if number >= 4 else (side + 9, side)
            noise(*size, 3, seed=number).save(path, exif=exif)
    # A folder alone, for whom no recipe says the size.
    shutil.copytree(teacher / "model", here / "model")
    evaluated = json.loads(distill("evaluate", "model", "--data", "other", "--json").out)["nll"]
    found = predicted_nll(distill, Path("model"), here / "other/test")
    assert found == pytest.approx(evaluated, abs=1e-6)


def test_the_keys_stand_in_recipe_plan_and_model(teacher: Path) -> None:
    recipe = yaml.safe_load((teacher / "recipe.yaml").read_text())
    assert {key: recipe[key] for key in FRAMING} == FRAMING
    plan = json.loads((teacher.parent / "labels/plan.json").read_text())["view_spec"]
    assert FRAMING.items() <= plan.items()
    view = json.loads((teacher / "model/config.json").read_text())["distill"]["view"]
    assert view == {"channels": 3, "height": 20, "width": 20, **FRAMING}


def test_a_student_has_its_teachers_pixels(teacher: Path, here: Path, distill: Distill) -> None:
    common = ("--model", "mlp_4x1", "--force", "--epochs", 1, "-b", 16, "-j", 0)
    for name in ("t", "labels"):
        before = ("--set", "background=black") if name == "t" else ()
        outcome = distill(
            "student", "--teachers", teacher.parent / name, *common, *before, "--out", name
        )
        assert outcome.code == 0, outcome.err
        recipe = yaml.safe_load((here / name / "recipe.yaml").read_text())
        background = "black" if before else "white"
        assert {key: recipe[key] for key in FRAMING} == {**FRAMING, "background": background}
        assert (f"background: {background}" in outcome.err) == bool(before)
    outcome = distill(
        *("student", "--teachers", teacher.parent / "labels", *common, "--out", "x"),
        *("--set", "orientation=stored"),
    )
    assert outcome.code == 3
    assert "orientation 'stored' contradicts the cache's views, made with 'exif'" in outcome.err


def test_teachers_of_other_pixels_are_not_mixed(
    teacher: Path, here: Path, distill: Distill
) -> None:
    common = ("--model", "mlp_4x1", "--epochs", 1, "-b", 16, "-j", 0, "--quiet")
    photos = teacher.parent / "photos"
    train = ("teacher", "train", "--data", photos, "--size", 20, *common)
    assert distill(*train, "--set", "background=black", "--out", "b").code == 0
    assert distill(*train, "--channels", 1, "--out", "g").code == 0
    for verb in (("student", *common), ("cache-soft-labels", "--quiet")):
        for names in (f"b,{teacher}", f"{teacher},b"):
            asked = (*verb, "--force", "--teachers", names, "--data", photos)
            refused = distill(*asked, "--out", "s")
            assert refused.code == 3
            assert "the teachers were made with different background" in refused.err
            assert "--set background=white" in refused.err
        grey = distill(*verb, "--force", "--teachers", f"g,{teacher}", "--out", "s")
        assert grey.code == 3
        assert "made with different channels" in grey.err
    said = distill(*asked, "--set", "background=black", "--out", "s")
    assert said.code == 0, said.err


def test_predict_answers_what_can_be_read(teacher: Path, here: Path, distill: Distill) -> None:
    odd_pictures(here / "odd")
    (here / "odd/broken.png").write_bytes((here / "odd/wide.png").read_bytes()[:200])
    (here / "odd/text.jpg").write_text("no picture")
    readable = sorted(path.name for path in (here / "odd").iterdir())
    readable = [name for name in readable if name not in ("broken.png", "text.jpg")]
    asked = ("predict", teacher, "odd/tall.png", "gone.png", "odd")
    outcome = distill(*asked, "--json")
    assert outcome.code == 3
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["tall.png", *readable]
    assert lines[0]["probabilities"] == pytest.approx(
        next(line for line in lines[1:] if line["image"] == "odd/tall.png")["probabilities"],
        abs=1e-6,
    )
    for name in ("gone.png", "odd/broken.png", "odd/text.jpg"):
        assert f"cannot read image {name}: " in outcome.err
    assert f"error: 3 of {len(lines) + 3} images cannot be read" in outcome.err
    skipped = distill(*asked, "--json", "--skip-bad")
    assert skipped.code == 0
    assert skipped.out == outcome.out
    assert skipped.err.strip() == "skipped 3 images that cannot be read"
    bars = distill(*asked)
    assert (bars.code, bars.out.count("%")) == (3, 2 * len(lines))
    alone = distill("predict", teacher, "odd/text.jpg", "--json")
    assert (alone.code, alone.out) == (3, "")
    assert "1 of 1 image cannot be read" in alone.err
    assert distill("predict", teacher, "gone.png").code == 2


def test_pictures_in_alpha_alone(here: Path, distill: Distill) -> None:
    for split in ("train", "test"):
        for number in range(12):
            path = here / "data" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.new("RGB", (9, 9), (255, 255, 255))
            picture.putalpha(noise(9, 9, seed=number))
            picture.save(path)
    call = ("teacher", "train", "--data", "data", "--epochs", 1, "--model", "mlp_2x1")
    said = distill(*call, "--out", "a").err
    assert "all pixels of the training images are equal" in said
    assert "--set background=black" in said
    said = distill(*call, "--out", "b", "--set", "background=black").err
    assert "equal" not in said
    for path in (here / "data").rglob("*.png"):
        red, *_ = noise(9, 9, 3, seed=int(path.stem)).split()
        Image.merge("RGB", [red, Image.new("L", (9, 9), 7), red]).save(path)
    said = distill(*call, "--out", "c").err
    assert "all pixels of the green channel of the training images are equal" in said


def test_the_readme_of_a_model_says_how_to_use_it(
    teacher: Path, made: Made, here: Path, distill: Distill
) -> None:
    """Its code is run, and says what `predict` says."""
    text = (teacher / "model/README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["pipeline_tag"] == "image-classification"
    assert head["library_name"] == "timm"
    for words in (
        "EXIF tag",
        "white behind",
        "20 × 20",
        "rounded down",
        "3 × 32 × 32",
    ):
        assert words in text, words
    assert "comes close" in text
    noise(29, 19, seed=3).save(here / "image.png", exif=tagged(8))
    shutil.copytree(made.teacher / "model", here / "fitted/model")
    save_temperature(load_model(here / "fitted"), here / "fitted", 2.5)
    for folder in (teacher, made.teacher, here / "fitted"):
        config = json.loads((folder / "model/config.json").read_text())
        text = (folder / "model/README.md").read_text()
        if folder.name == "fitted":
            text = model_readme(kept_recipe(made.teacher), RunResult(**FIGURES), config)
        fitted = config["distill"].get("temperature")
        assert folder.name != "fitted" or fitted == 2.5
        formula = "softmax(z)" if fitted is None else "softmax(z / temperature)"
        assert config["distill"]["probabilities"] == formula
        assert f"They are {formula.replace('temperature', 'T')} of the logits z" in text
        code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        names: dict[str, object] = {}
        exec(code.replace("FOLDER", str(folder / "model")), names)
        said = json.loads(distill("predict", folder, "image.png", "--json").out)["probabilities"]
        by_name = dict(zip(config["label_names"], names["probabilities"][0].tolist(), strict=True))
        exact = folder != teacher
        assert by_name == pytest.approx(said, abs=1e-5 if exact else 0.2)
        assert ("makes the same pixels" in text) == exact


def test_a_fine_tuned_network_is_cropped_as_it_was_trained(teacher: Path) -> None:
    """Its authors' crop and interpolation stood in config.json, bicubic and 0.9 of vit_tiny."""
    model = timm.create_model(f"local-dir:{teacher / 'model'}", pretrained=True)
    options = timm.data.resolve_data_config(model=model)
    assert (options["interpolation"], options["crop_pct"]) == ("bilinear", 1.0)
    assert options["crop_mode"] == "center"
