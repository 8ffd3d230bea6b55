from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.readers.yaml_values import BadYamlError, read_yaml_value, yaml_value
from distill_cli.recipe.load import yaml_text
from tests.readers.test_json_values import PLAIN


@given(PLAIN)
def test_what_is_dumped_is_read_as_it_is(value: object) -> None:
    assert yaml_value(yaml_text(value)) == value


@pytest.mark.parametrize("name", ["a\x85b", "\u2028", "cat\u2029dog", "a\nb", " é "])
def test_line_breaks_of_unicode_are_read_as_they_are(name: str) -> None:
    """PyYAML writes some as they are and takes them for spaces, so that a class had another name."""
    assert yaml_value(yaml_text({name: [name]})) == {name: [name]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("2024-99-99: x", {"2024-99-99": "x"}),
        ("a: 2001-12-14t21:59:43.10-99:99", {"a": "2001-12-14t21:59:43.10-99:99"}),
        ("a: =", {"a": "="}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a: [on, 1_000, 0x10, 1e3, 1.0e+3, ~]", {"a": [True, 1000, 16, "1e3", 1000.0, None]}),
        ("a: !!str 1", {"a": "1"}),
        ("", None),
    ],
)
def test_the_types_that_there_are(text: str, value: object) -> None:
    assert yaml_value(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' stands twice"),
        ("a: [1", "line 2"),
        ("[" * 100_000, "line 1, column 65: it is nested more than 64 levels deep"),
        ("? " * 20_000, "nested more than 64 levels deep"),
        ("a: &x [*x]", "line 1, column 8: an alias stands for nothing, or for what it lies in"),
        ("a: *x", "an alias stands for nothing"),
        ("a: " + "9" * 5000, "line 1, column 4: a number of 5,000 characters"),
        ("a: 0x" + "f" * 4000, "a number of 4,002 characters"),
        ("a: !!int " + "'" + "9" * 400 + "'", "a number of more than 300 digits"),
        ("a: !!int ''", "a value in it is not what its tag or form says"),
        ("a: !!bool x", "a value in it is not what its tag or form says"),
        ("a: 0b_", "a value in it is not what its tag or form says"),
        ("a: !!timestamp 2024-99-99", "could not determine a constructor"),
        ("a: !!binary x", "could not determine a constructor"),
        ("a: !!set {b, c}", "could not determine a constructor"),
        ("!!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: b\n---\nc: d", "line 2"),
        ("a: \x1b[31m", "control characters|special characters"),
        ('a: "\\ud800"', "line 1|no Unicode"),
        ("a: 1\n<<: 2", "line 2"),
    ],
)
def test_what_is_refused_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadYamlError, match=said):
        yaml_value(text)
    (tmp_path / "a.yaml").write_bytes(text.encode())
    for kind in (UsageError, ArtifactError):
        with pytest.raises(kind, match=r"recipe .*a\.yaml is not valid YAML: ") as refused:
            read_yaml_value(tmp_path / "a.yaml", "recipe", error=kind)
        assert len(str(refused.value).splitlines()) == 1


def test_aliases_that_stand_for_millions_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    merged = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9)]
    started = time.process_time()
    for text in (lines, ["a0: &a0 {x: 1, y: 2}", *merged]):
        with pytest.raises(BadYamlError, match="more than 100,000 values"):
            yaml_value("\n".join(text))
    assert time.process_time() - started < 1


def test_a_file_of_a_size(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * (4 << 20) + b"\n")
    with pytest.raises(UsageError, match="it has more than 4,194,304 bytes"):
        read_yaml_value(tmp_path / "a.yaml", "recipe")
    (tmp_path / "many.yaml").write_text("".join(f"{n}: x\n" for n in range(60_000)))
    with pytest.raises(UsageError, match=r"line 49999, .*more than 100,000 values"):
        read_yaml_value(tmp_path / "many.yaml", "class map")
    (tmp_path / "classes.yaml").write_text("".join(f"{n}: x\n" for n in range(21_841)))
    assert len(read_yaml_value(tmp_path / "classes.yaml", "class map")) == 21_841
