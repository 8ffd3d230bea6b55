"""The model card says what matters and nothing of the machine."""

from __future__ import annotations

import re
from pathlib import Path

from distill_cli.models import InputSpec, config_of, create_network
from distill_cli.report.model_card import model_card
from distill_cli.types import RunResult
from tests.report.made import FIGURES, RECIPE, STUDENT

PRIVATE = "/home/someone/secret"
RESULT = RunResult(**{**FIGURES, "teacher_agreement": 0.975, "teacher_kl": 0.1234})
TAUGHT = {
    **RECIPE,
    **STUDENT,
    "data": f"{PRIVATE}/flowers",
    "teachers": [f"{PRIVATE}/big", f"{PRIVATE}/labels/small"],
    "mode": "random",
    "temperature": 20.0,
    "alpha": 0.5,
    "out": f"{PRIVATE}/out",
}
CONFIG = {
    "architecture": "distill_mlp",
    "label_names": ["daisy", "<b>rose</b>", "a|b`c"],
    "pretrained_cfg": {"input_size": [1, 8, 8]},
    "distill": {"library": "timm"},
}


def test_card_of_a_student() -> None:
    card = model_card(TAUGHT, RESULT, CONFIG)
    for said in (
        *("# mlp\\_16x1 on flowers", "1.21 K", "57 KB", "distilled", "`distill_mlp`"),
        *("kd T=20 α=0.5", "`big`, `small`", "mode `random`", "36 of 360", "90.00 %"),
        *("0.3100 nats", "4.20 %", "97.5 %", "0.1234 nats", "2 of 3", "1 × 8 × 8", "3 classes"),
        *("distill predict RUN image.png", "import distill_cli.models", "local-dir:RUN/model"),
        "## Limits",
    ):
        assert said in card, said


def test_no_path_of_a_machine() -> None:
    card = model_card(TAUGHT, RESULT, CONFIG)
    assert "someone" not in card
    assert "secret" not in card


def test_card_of_a_teacher_without_a_config() -> None:
    card = model_card(RECIPE, RunResult(**FIGURES), {})
    assert "trained on labels" in card
    assert "teachers" not in card.split("## Figures")[0]
    assert "agrees" not in card
    assert "KL" not in card
    assert "None" not in card


def test_what_its_probabilities_are() -> None:
    assert (
        "The probabilities are softmax(logits/1.50), by the temperature that is stored"
        in model_card(RECIPE, RESULT, {})
    )
    unfitted = RunResult(**{**FIGURES, "temperature": 1.0})
    assert "The probabilities are softmax(logits); " in model_card(RECIPE, unfitted, {})
    sigmoid = RunResult(**{**FIGURES, "temperature": None, "test_map": 0.7})
    assert "The probabilities are σ(logits); " in model_card(RECIPE, sigmoid, {})


def test_recipe_without_a_record() -> None:
    card = model_card({"model": "m", "data": "digits", "objective": "ce"}, RESULT, {})
    assert "# m on digits" in card


def test_names_stay_inside_their_place() -> None:
    card = model_card({**TAUGHT, "model": "<img src=x>\n# x"}, RESULT, CONFIG)
    assert "`a\\|b'c`" in card
    outside = re.sub(r"`[^`\n]*`", "", card)
    assert "<b>" not in outside
    assert "<img" not in outside.replace("\\<img", "")
    assert "\n# x" not in card


def test_torchvision_is_not_loaded_by_timm() -> None:
    config = {**CONFIG, "distill": {"library": "torchvision"}}
    assert "timm.create_model" not in model_card(TAUGHT, RESULT, config)


def test_the_config_of_a_network_says_what_the_card_needs() -> None:
    view = InputSpec(channels=3, height=32, width=48, mean=(0.5,) * 3, std=(0.2,) * 3)
    for model, by_timm in (("mlp_8x1", True), ("torchvision/squeezenet1_1", False)):
        network = create_network(model, class_names=("rose", "daisy"), view=view)
        card = model_card({**RECIPE, "model": model}, RESULT, config_of(network))
        assert "- takes 3 × 32 × 48 (channels, height, width)" in card
        assert "2 classes: `rose`, `daisy`" in card
        assert ("timm.create_model" in card) == by_timm
        assert ("timm cannot load it" in card) != by_timm


def test_many_classes_are_cut(tmp_path: Path) -> None:
    config = {**CONFIG, "label_names": [f"class-{n}" for n in range(1000)]}
    card = model_card(TAUGHT, RESULT, config)
    assert "1,000 classes" in card
    assert "class-999" not in card


def test_figures_of_labels_that_stand_by_themselves() -> None:
    figures = {**FIGURES, "test_map": 0.7654, "test_f1": 0.5, "test_macro_f1": 0.4}
    card = model_card({**RECIPE, "targets": "sigmoid"}, RunResult(**figures), {})
    assert "| test mean average precision | 76.54 % |" in card
    assert "| test F1, mean over labels | 40.00 % |" in card
    assert "targets: sigmoid, each label by itself" in card
    assert "several or none may apply" in card
    assert "mean average precision" not in model_card(RECIPE, RunResult(**FIGURES), {})


def test_it_does_not_hide_what_went_wrong() -> None:
    card = model_card(RECIPE, RunResult(**FIGURES, warnings=("no better than *chance*",)), {})
    assert "- Warning: no better than \\*chance\\*" in card
    assert "Warning" not in model_card(RECIPE, RunResult(**FIGURES), {})
