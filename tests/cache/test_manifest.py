"""Plans, manifests, and which folders are caches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_cli.cache.folder import expand, is_cache
from distill_cli.cache.manifest import Manifest, read_manifest, read_plan
from distill_cli.cache.plan import Plan
from distill_cli.cache.plan_diff import plan_differences
from distill_cli.errors import ArtifactError
from tests.cache.examples import PLAN, dump, plan


def test_plan_json_has_the_promised_keys() -> None:
    value = json.loads(json.dumps(PLAN.to_json()))
    assert list(value) == [
        *("format_version", "classes", "view_spec", "split", "dataset", "teacher", "codec"),
        *("precision", "device", "teacher_batch", "shard_length", "versions", "cpu_capability"),
        "sample_ids",
    ]
    assert value["view_spec"]["views"] == 2
    assert set(value["split"]) == {"seed", "val_fraction"}
    assert set(value["dataset"]) == {"fingerprint", "ids_digest", "samples"}
    assert set(value["teacher"]) == {"fingerprint", "architecture"}
    assert Plan.from_json(value) == PLAN


def test_a_plan_says_what_its_logits_are_of() -> None:
    of_labels = replace(PLAN, targets="sigmoid")
    value = of_labels.to_json()
    assert value["teacher"]["targets"] == "sigmoid"
    assert Plan.from_json(value) == of_labels
    assert of_labels.digest != PLAN.digest
    assert plan_differences(PLAN, of_labels) == [
        "teacher.targets: expected nothing, found 'sigmoid'"
    ]
    value["teacher"]["targets"] = "tanh"
    with pytest.raises(ValueError, match="'targets' should be one of softmax, sigmoid"):
        Plan.from_json(value)


def test_a_plan_names_every_network_that_labels() -> None:
    fitted = replace(PLAN, cross_fit=("a" * 32, "b" * 32))
    value = fitted.to_json()
    assert value["teacher"]["cross_fit"] == ["a" * 32, "b" * 32]
    assert Plan.from_json(value) == fitted
    assert fitted.digest not in (PLAN.digest, replace(fitted, cross_fit=("b" * 32,)).digest)
    for wrong in ("a", [1], {}):
        value["teacher"]["cross_fit"] = wrong
        with pytest.raises(ValueError, match="'cross_fit' should be"):
            Plan.from_json(value)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 4))
def test_shards_cover_every_row_of_every_view_once(samples: int, length: int, views: int) -> None:
    one = plan(samples=samples, shard_length=length, views=views)
    shards = one.shards()
    assert len(shards) == views * one.shards_per_view
    assert len({shard.file for shard in shards}) == len(shards)
    covered = [(s.view, row) for s in shards for row in range(s.start, s.stop)]
    assert covered == [(view, row) for view in range(views) for row in range(samples)]
    assert all(shard.rows == length for shard in shards if shard.stop < samples)


def test_shard_file_names() -> None:
    assert PLAN.shards()[5].file == "view-0001/shard-00001.safetensors"


def test_differences_name_both_values() -> None:
    other = replace(
        PLAN,
        teacher_fingerprint="u" * 40,
        view_spec=replace(PLAN.view_spec, seed=4),
        versions={"torch": "2.1", "timm": "1"},
    )
    assert plan_differences(PLAN, other) == [
        "view_spec.seed: expected 3, found 4",
        "teacher.fingerprint: expected 'tttttttttttt…', found 'uuuuuuuuuuuu…'",
        "versions.torch: expected '2.0', found '2.1'",
        "versions.timm: expected nothing, found '1'",
    ]
    assert plan_differences(PLAN, PLAN) == []


def test_differences_of_many_classes_stay_short() -> None:
    many, more = plan(classes=1000), plan(classes=1001)
    assert plan_differences(many, more) == ["classes: expected 1,000 entries, found 1,001"]
    names = list(many.dataset.class_names)
    names[7] = "zebra"
    swapped = replace(many, dataset=replace(many.dataset, class_names=tuple(names)))
    [line] = plan_differences(many, swapped)
    assert line == "classes: expected 'class 7' at place 7, found 'zebra'"


def test_manifest_round_trip(tmp_path: Path) -> None:
    manifest = dump(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert read_plan(tmp_path) == PLAN
    value = json.loads((tmp_path / "manifest.json").read_text())
    assert Manifest.from_json(value) == manifest
    assert value.items() >= PLAN.to_json().items()
    assert set(value["shards"][0]) == {"file", "view", "start", "stop", "sha256"}
    assert value["truncation_error"]["20"] == {"mean_kl": 0.0, "worst_kl": 0.0}


def test_folders_of_caches(tmp_path: Path) -> None:
    for name in ("b", "a"):
        dump(tmp_path / name)
    (tmp_path / "other").mkdir()
    (tmp_path / "file").touch()
    assert expand(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert expand(tmp_path / "a") == [tmp_path / "a"]
    assert expand(tmp_path / "other") == expand(tmp_path / "nowhere") == []
    assert is_cache(tmp_path / "a")
    assert not is_cache(tmp_path)


def test_a_dump_that_did_not_finish(tmp_path: Path) -> None:
    dump(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"not finished.*rerun cache-soft-labels"):
        read_manifest(tmp_path)
    with pytest.raises(ArtifactError, match="no cache"):
        read_manifest(tmp_path / "view-0000")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["format_version"], 3, "format 3"),
        (["sample_ids"], 1, "sample_ids"),
        (["ids_sha256"], None, "ids_sha256"),
        (["shard_length"], 0, "at least 1"),
        (["shard_length"], True, "shard_length"),
        (["shard_length"], 10**9, "names 8 shards"),
        (["dataset", "samples"], 10**18, "more than 1,000,000 shards"),
        (["dataset", "samples"], 10**6, "names 8 shards"),
        (["classes"], [1, 2], "classes"),
        (["view_spec", "colour"], 1, "colour"),
        (["split"], [], "split"),
        (["view_spec", "augment"], [1, 2], "augment"),
        (["view_spec", "seed"], "x", "seed"),
        (["view_spec", "height"], 10**9, "height"),
        (["view_spec", "source"], "net", "source"),
        (["shards"], [], "names 0 shards"),
        (["shards", 1, "file"], "view-0000/shard-00000.safetensors", "should be called"),
        (["calibration", "views"], [], "15 numbers"),
        (["calibration", "correct", 3], -1, "15 numbers"),
        (["calibration", "confidence", 3], float("nan"), "NaN, which is no number"),
        (["calibration", "confidence", 3], -1.0, "15 numbers"),
        (["calibration"], None, "calibration"),
        (["truncation_error", "4", "mean_kl"], "much", "mean_kl"),
        (["truncation_error", "20"], None, "malformed"),
        (["teacher_nll"], float("nan"), "NaN, which is no number"),
        (["teacher_accuracy"], 4.2, "'teacher_accuracy' should be from 0 to 1, is 4.2"),
        (["teacher_accuracy"], None, "'teacher_accuracy' is None, with 64 labelled views"),
        (["teacher_nll"], -7.0, "'teacher_nll' should be from 0 on, is -7"),
        (["teacher_ece"], 1.5, "'teacher_ece' should be from 0 to 1"),
        (["entropy"], -0.5, "'entropy' should be from 0"),
        (["entropy"], 99.0, "'entropy' should be from 0 to"),
        (["labelled"], -3, "'labelled' should be from 0 to 74"),
        (["labelled"], 65, "'calibration.labelled' should add up to 65"),
        (["calibration", "views", 0], 1, "'calibration.views' should add up to 74"),
        (["calibration", "correct", 0], 9, "'calibration' has 9 right of 0 labelled"),
        (["calibration", "confidence", 0], 0.5, "confidence of 0.5 in all, in bin 0"),
        (["truncation_error", "4", "mean_kl"], -0.1, "'mean_kl' should be from 0"),
        (["truncation_error", "20", "worst_kl"], -0.1, "'mean_kl' should be from 0"),
        (["precision_error"], {"mean_kl": 2.0, "worst_kl": 1.0}, "'mean_kl' should be from 0 to 1"),
        (["versions", "torch"], 2, "'versions' should hold texts"),
        (["teacher_accuracy"], "all", "teacher_accuracy"),
        (["shards", 1, "start"], 0, "do not cover"),
        (["shards", 1], None, "malformed"),
        (["truncation_error"], {"1": 0}, "malformed"),
        (["shards", 0, "file"], "../shard.safetensors", "inside"),
        (["shards", 0, "file"], "view-0000/../../x", "inside"),
        (["shards", 0, "file"], "/etc/hostname", "inside"),
        (["shards", 0, "file"], "C:\\x", "inside"),
        (["shards", 0, "file"], "x\0y", "inside"),
        (["shards", 0, "file"], "", "inside"),
    ],
)
def test_forged_manifests(tmp_path: Path, path: list, value: object, said: str) -> None:
    dump(tmp_path)
    file = tmp_path / "manifest.json"
    forged = json.loads(file.read_text())
    place = forged
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(forged))
    with pytest.raises(ArtifactError, match=said) as caught:
        read_manifest(tmp_path)
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", "[" * 100_000, "\xff"])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    dump(tmp_path)
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        read_manifest(tmp_path)
