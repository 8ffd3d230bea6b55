from __future__ import annotations

import pytest
import yaml

from distill_cli.errors import UsageError
from distill_cli.objectives import OBJECTIVES
from distill_cli.objectives.base import temperatures_of
from distill_cli.pipeline.objective.build import check_objectives, composition, targets_of
from distill_cli.pipeline.objective.temperature import temperature_message
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe


def parts(**values: object) -> dict[str, tuple[float, float, str]]:
    made = composition(validate(StudentRecipe, values))
    return {
        part.objective.info.name: (part.weight.start, part.weight.end, part.weight.schedule)
        for part in made.parts
    }


def test_default_is_a_tenth_hard_and_nine_tenths_soft() -> None:
    found = parts()
    assert (found["kd"][0], found["kd"][2]) == (0.9, "constant")
    assert found["ce"][0] == pytest.approx(0.1)


def test_weights_always_sum_to_one() -> None:
    made = composition(
        validate(StudentRecipe, {"alpha": 0.7, "alpha_end": 0.2, "schedule": "cosine"})
    )
    for fraction in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert sum(part.weight.at(fraction) for part in made.parts) == pytest.approx(1)


def test_an_end_without_a_schedule_is_linear() -> None:
    assert parts(alpha_end=0.1)["kd"] == (0.9, 0.1, "linear")


def test_smoothing_takes_the_place_of_the_hard_label() -> None:
    assert set(parts(label_smoothing=0.2)) == {"label-smoothing", "kd"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"objective": "kdd"}, "Did you mean 'kd'"),
        ({"objective": []}, "empty"),
        ({"objective": [{"name": "kd", "temprature": 3}]}, "temperature"),
        ({"objective": [{"name": "kd", "temperature": 0}]}, "temperature"),
        ({"objective": [{"name": "ce"}]}, "none of these learns from a teacher"),
        ({"objective": [{"name": "kd"}, {"name": "ce"}, {"name": "label-smoothing"}]}, "combined"),
        ({"objective": [{"name": "kd"}], "temperature": 3}, "temperature"),
        ({"objective": [{"temperature": 3}]}, "unknown"),
    ],
)
def test_refusals(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        composition(validate(StudentRecipe, values))


def test_a_teacher_cannot_learn_from_teachers() -> None:
    with pytest.raises(UsageError, match="needs teachers"):
        composition(validate(TeacherRecipe, {"objective": "kd"}))


def sigmoid(**values: object) -> dict[str, object]:
    made = composition(validate(StudentRecipe, values), "sigmoid")
    return {part.objective.info.name: part for part in made.parts}


def test_on_sigmoid_targets_others_stand_for_the_usual_ones() -> None:
    found = sigmoid(temperature=2.0, label_smoothing=0.2)
    assert set(found) == {"bce", "sigmoid-kd"}
    assert found["bce"].objective.epsilon == 0.2
    assert found["bce"].weight.start == pytest.approx(0.1)
    assert found["sigmoid-kd"].objective.temperature == 2.0
    assert sigmoid()["bce"].objective.epsilon == 0
    named = sigmoid(objective=[{"name": "label-smoothing"}, {"name": "kd", "weight": 2.0}])
    assert named["bce"].objective.epsilon == 0.1
    assert named["sigmoid-kd"].weight.start == 2.0
    assert set(sigmoid(objective="sigmoid-kd")) == {"bce", "sigmoid-kd"}
    own = composition(
        validate(TeacherRecipe, {"objective": "bce", "label_smoothing": 0.3}), "sigmoid"
    )
    assert [part.objective.epsilon for part in own.parts] == [0.3]


def test_features_suit_all_targets_and_other_objectives_their_own() -> None:
    assert set(sigmoid(objective="hint")) == {"bce", "hint"}
    with pytest.raises(UsageError, match="'dist' is for softmax targets, these are sigmoid"):
        sigmoid(objective="dist")
    with pytest.raises(UsageError, match="'sigmoid-kd' is for sigmoid targets, these are softmax"):
        parts(objective="sigmoid-kd")


def test_before_the_data_are_known_only_what_never_suits_is_refused() -> None:
    for name in ("kd", "sigmoid-kd", "dkd", "hint"):
        check_objectives(validate(StudentRecipe, {"objective": name}))
    for values in (
        {"objective": "sigmoid-kd,dkd"},
        {"objective": "dkd", "targets": "sigmoid"},
        {"objective": "sigmoid-kd", "targets": "softmax"},
    ):
        with pytest.raises(UsageError, match="targets"):
            check_objectives(validate(StudentRecipe, values))


def test_targets_are_what_the_data_are() -> None:
    for asked, several, found in (
        (None, False, "softmax"),
        (None, True, "sigmoid"),
        ("sigmoid", False, "sigmoid"),
        ("sigmoid", True, "sigmoid"),
        ("softmax", False, "softmax"),
    ):
        assert targets_of(validate(TeacherRecipe, {"targets": asked}), several=several) == found
    with pytest.raises(UsageError, match="several labels may apply"):
        targets_of(validate(TeacherRecipe, {"targets": "softmax"}), several=True)


def temperatures(names: str, **values: object) -> dict[str, float]:
    made = composition(validate(StudentRecipe, {"objective": names, **values}))
    objectives = {part.objective.info.name: part.objective for part in made.parts}
    return {
        name: one.temperature for name, one in objectives.items() if hasattr(one, "temperature")
    }


def test_the_flag_of_temperature_means_marked_parameters_alone() -> None:
    marked = {name for name, cls in OBJECTIVES.items() if temperatures_of(cls) == ("temperature",)}
    assert marked == {"kd", "dkd", "nkd", "dist", "logit-standardisation", "sigmoid-kd"}
    for name in marked - {"sigmoid-kd"}:
        assert temperatures(name, temperature=3) == {name: 3}
    assert temperatures("kd,dkd", temperature=3) == {"kd": 3, "dkd": 3}
    assert temperatures("kd,tfkd-reg,tfkd-self", temperature=3) == {
        "kd": 3,
        "tfkd-reg": 20,
        "tfkd-self": 20,
    }


@pytest.mark.parametrize("name", ["tfkd-reg", "tfkd-self"])
def test_a_temperature_that_is_not_the_flags_is_set_in_a_list(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' has one of its own") as refused:
        temperatures(name, temperature=30)
    assert refused.value.exit_code == 2
    hint = str(refused.value.hint)
    assert hint.startswith("Set it by --set 'objective=[{name: ce, weight: 0.")
    entries = yaml.safe_load(hint.partition("objective=")[2].rstrip("'"))
    assert entries[-1]["temperature"] == 30
    if name == "tfkd-self":
        made = composition(validate(StudentRecipe, {"objective": entries}))
        assert made.parts[1].objective.temperature == 30
        weights = OBJECTIVES[name].info.default_weights
        assert [part.weight.start for part in made.parts] == [weights.ce, weights.objective]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_runs_of_earlier_versions_mean_every_temperature(version: str) -> None:
    before = {"recorded": {"defaults": version}}
    assert temperatures("tfkd-self", temperature=6, **before) == {"tfkd-self": 6}
    both = temperatures("kd,tfkd-reg", temperature=6, **before)
    assert both == {"kd": 6, "tfkd-reg": 6}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"objective": "kd", "temperature": 3}, ""),
        ({"objective": "kd,hint", "temperature": 3}, ""),
        ({"objective": "kd,dkd"}, ""),
        ({"objective": [{"name": "kd"}, {"name": "dist"}]}, ""),
        ({"objective": "kd,dist", "temperature": 3}, "--temperature 3 is that of kd and dist"),
        (
            {"objective": "kd, tfkd-reg", "temperature": 3},
            "--temperature 3 is that of kd; tfkd-reg keeps its own, 20",
        ),
        (
            {
                "objective": "kd,tfkd-reg",
                "temperature": 3,
                "recorded": {"versions": {"distill-cli": "0.1.0"}},
            },
            "--temperature 3 is that of kd and tfkd-reg",
        ),
    ],
)
def test_a_temperature_of_several_says_which_it_sets(values: dict[str, object], said: str) -> None:
    assert temperature_message(validate(StudentRecipe, values)) == said
