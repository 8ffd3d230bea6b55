from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.errors import UsageError
from distill_cli.recipe.load import load, to_yaml, validate
from distill_cli.recipe.schema import RECIPES, CacheRecipe, StudentRecipe, TeacherRecipe


def student(**values: object) -> StudentRecipe:
    return load(StudentRecipe, flags=values, environment={})


def test_defaults() -> None:
    recipe = student()
    assert (recipe.objective, recipe.epochs, recipe.batch_size) == ("kd", 30, None)
    assert recipe.command == "student"


def test_precedence(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("epochs: 1\nbatch-size: 11\nlr: 1e-3\nseed: 4\n")
    recipe = load(
        StudentRecipe,
        recipe=path,
        environment={"DISTILL_BATCH_SIZE": "22", "DISTILL_LR": "0.2", "DISTILL_SEED": "5"},
        assignments=["lr=0.3", "seed=6"],
        flags={"seed": "7"},
    )
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.seed) == (1, 22, 0.3, 7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"unknown key 'epoch'. Did you mean 'epochs'\?"),
        ({"temperature": 0}, "temperature: .*greater than 0"),
        ({"temperature": -2}, "temperature: "),
        ({"alpha": 1.5}, "alpha: .*less than or equal to 1"),
        ({"alpha": "much"}, "alpha: "),
        ({"epochs": 0}, "epochs: "),
        ({"epochs": "many"}, "epochs: "),
        ({"mode": "average"}, "ensemble"),
        ({"device": "gpu"}, "device: "),
        ({"require": "test_top1"}, "test_top1>=0.97"),
        ({"require": ["test_topp1>=0.9"]}, "Did you mean 'test_top1'"),
        ({"teacher_weights": "1,-1"}, "teacher_weights"),
        ({"lr": float("nan")}, "lr: "),
    ],
)
def test_wrong_values_name_their_key(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        student(**values)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs", "key=value"),
        ("=3", "key=value"),
        ("teachers.x=3", "teachers"),
        ("nope=1", "nope"),
    ],
)
def test_wrong_assignments(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(StudentRecipe, assignments=[assignment], environment={}, flags={"teachers": "a"}) if (
            "." not in assignment
        ) else load(StudentRecipe, assignments=["teachers=a", assignment], environment={})


def test_nested_assignment() -> None:
    recipe = load(
        TeacherRecipe, assignments=["model_args.width=30", "model-args.depth=2"], environment={}
    )
    assert recipe.model_args == {"width": 30, "depth": 2}


def test_commas_are_lists() -> None:
    recipe = student(teachers="a, b,c", teacher_weights="1,2,0.5", augment="crop:4,flip")
    assert recipe.teachers == ["a", "b", "c"]
    assert recipe.teacher_weights == [1.0, 2.0, 0.5]
    assert recipe.augment == ["crop:4", "flip"]


def test_unknown_environment_variable_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"DISTILL_EPOCS.*epochs"):
        load(StudentRecipe, environment={"DISTILL_EPOCS": "3"})


def test_environment_of_other_verbs_is_ignored() -> None:
    assert load(CacheRecipe, environment={"DISTILL_EPOCHS": "3", "DISTILL_DATA": "x"}).data is None


def test_recipe_of_another_verb(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("command: cache-soft-labels\nviews: 3\n")
    with pytest.raises(UsageError, match="cache-soft-labels"):
        load(StudentRecipe, recipe=path, environment={})


@pytest.mark.parametrize("text", ["a: [", "- 1", "just text", "\x00"])
def test_broken_recipes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(StudentRecipe, recipe=path, environment={})
    assert "\n" not in str(caught.value)


def test_a_recipe_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"data: !!python/object/apply:os.system ['touch {tmp_path}/pwned']\n")
    with pytest.raises(UsageError):
        load(StudentRecipe, recipe=path, environment={})
    assert not (tmp_path / "pwned").exists()


@given(
    epochs=st.integers(1, 1000),
    alpha=st.none() | st.floats(0, 1),
    lr=st.none() | st.floats(1e-8, 10),
    teachers=st.none() | st.lists(st.text("abc/1", min_size=1), min_size=1, max_size=3),
    args=st.dictionaries(st.sampled_from(["width", "depth"]), st.integers(1, 9)),
)
def test_yaml_round_trip(**values: object) -> None:
    values = {("model_args" if key == "args" else key): value for key, value in values.items()}
    recipe = validate(StudentRecipe, {"command": "student", **values})
    assert validate(StudentRecipe, yaml.safe_load(to_yaml(recipe))) == recipe


@pytest.mark.parametrize("schema", RECIPES.values(), ids=RECIPES)
def test_every_key_has_help_and_a_panel(schema: type) -> None:
    for name, field in schema.model_fields.items():
        assert field.description, name
        if name not in ("command", "about", "recorded"):
            assert "panel" in field.json_schema_extra, name


def test_a_value_of_a_named_objective_can_be_set() -> None:
    """It reaches the list of every value, and a name that is not there is refused."""
    from distill_cli.pipeline.objective.build import composition
    from distill_cli.pipeline.objective.entries import spelled

    said = ["objective.pseudo-label.threshold=0.5", "objective.ce.weight=2"]
    listed = [{"name": "ce"}, {"name": "pseudo-label"}]
    for objective in ("ce,pseudo-label", listed):
        flags = {"objective": objective}
        recipe = load(StudentRecipe, assignments=said, flags=flags, environment={})
        kept = spelled(recipe, composition(recipe))
        values = {entry["name"]: entry for entry in kept.objective if isinstance(entry, dict)}
        assert values["pseudo-label"]["threshold"] == 0.5
        assert values["ce"]["weight"] == 2
        assert "objective_values" not in kept.model_dump()
    named = {"objective": "ce,pseudo-label"}
    other = ["objective.kd.temperature=2"]
    wrong = load(StudentRecipe, assignments=other, flags=named, environment={})
    with pytest.raises(UsageError, match=r"objective\.kd: none of these"):
        composition(wrong)
    with pytest.raises(UsageError, match=r"objective\.NAME\.KEY"):
        load(StudentRecipe, assignments=["objective.threshold=2"], flags=named, environment={})
