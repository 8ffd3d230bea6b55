"""Seeds of a recipe: counted or named, and never part of a run's own recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill_cli.errors import UsageError
from distill_cli.recipe.load import load, read_yaml, to_yaml, validate
from distill_cli.recipe.schema import StudentRecipe, TeacherRecipe
from distill_cli.recipe.seeds import seed_runs, seeds_of


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seeds": "3"}, [0, 1, 2]),
        ({"seeds": 3, "seed": 7}, [7, 8, 9]),
        ({"seeds": "1"}, [0]),
        ({"seeds": "9,4"}, [9, 4]),
        ({"seeds": "9,"}, [9]),
        ({"seeds": [9]}, [9]),
        ({"seeds": [2**63 - 1, 0]}, [2**63 - 1, 0]),
    ],
)
def test_a_number_is_a_count_and_a_list_has_a_comma(
    values: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    recipe = validate(TeacherRecipe, values)
    assert seeds_of(recipe) == expected
    (tmp_path / "seeds.yaml").write_text(to_yaml(recipe))
    assert seeds_of(validate(TeacherRecipe, read_yaml(tmp_path / "seeds.yaml"))) == expected


@pytest.mark.parametrize(
    "seeds", ["0", "-1", "1001", "x", "2.5", "1,x", ",", "", "3,3", 2.5, True, [], [1.5], [2**63]]
)
def test_what_is_neither_is_refused(seeds: Any) -> None:
    with pytest.raises(UsageError, match="seeds: "):
        validate(TeacherRecipe, {"seeds": seeds})


@pytest.mark.parametrize("values", [{"seeds": [1, 2], "seed": 0}, {"seeds": 2, "seed": 2**63 - 1}])
def test_seeds_that_contradict_the_seed_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--seed"):
        seeds_of(validate(TeacherRecipe, values))


def test_a_list_that_is_typed_replaces_the_seed_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("command: student\nseed: 5\n")

    def seeds(**flags: str) -> list[int]:
        return seeds_of(
            load(StudentRecipe, recipe=tmp_path / "r.yaml", flags=flags, environment={})
        )

    assert seeds(seeds="1,2") == [1, 2]
    assert seeds(seeds="2") == [5, 6]
    with pytest.raises(UsageError, match="--seed 7 another"):
        seeds(seeds="1,2", seed="7")


def test_a_run_has_no_key_of_seeds() -> None:
    recipe = validate(StudentRecipe, {"seeds": 2, "seed": 3, "teachers": ["a"], "hints": True})
    for seed, run in zip((3, 4), seed_runs(recipe, Path("out")), strict=True):
        alone = validate(
            StudentRecipe,
            {"seed": seed, "teachers": ["a"], "hints": True, "out": f"out/seed-{seed}"},
        )
        assert run.seed == seed
        assert to_yaml(run.recipe) == to_yaml(alone)
        assert "seeds" not in alone.model_dump(mode="json")
