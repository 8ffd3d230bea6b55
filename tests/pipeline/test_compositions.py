from __future__ import annotations

import pytest

from distill_cli.errors import UsageError
from distill_cli.pipeline.compositions import composition
from distill_cli.recipe.load import validate
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe


def parts(**values: object) -> dict[str, tuple[float, float, str]]:
    made = composition(validate(StudentRecipe, values))
    return {
        part.objective.about.name: (part.weight.start, part.weight.end, part.weight.schedule)
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
