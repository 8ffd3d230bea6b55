"""Which classes are alike: what is told to objectives before, and what is kept after training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from distill_cli import runtime
from distill_cli.adapters.class_relations import in_words, likest
from distill_cli.adapters.target_matrix import TargetMatrix
from distill_cli.data.dataset import open_dataset
from distill_cli.models import load_model
from distill_cli.pipeline.objective import class_info as setting
from distill_cli.pipeline.objective.class_info import class_centroids
from distill_cli.pipeline.run.class_relations import PAIRS, keep_relations
from distill_cli.report.run_folder import read_run
from distill_cli.types.relation import MOST_CLASSES, RELATIONS
from tests.conftest import Made
from tests.report.made import make


def test_the_likest_pairs() -> None:
    relation_KK = torch.tensor([[0.9, 0.1, 0.0], [0.3, 0.7, 0.0], [0.0, 0.05, 0.95]])
    found = likest(relation_KK, 2)
    assert [pair[:2] for pair in found] == [(0, 1), (1, 2)]
    assert [pair[2] for pair in found] == pytest.approx([0.2, 0.025])
    assert in_words(relation_KK, "abc").startswith("a–b (20 %), b–c (")


def test_of_many_classes_those_of_the_likest_pairs_are_kept(tmp_path: Path) -> None:
    count = 60
    names = [f"c{place:02}" for place in range(count)]
    share_KK = torch.full((count, count), 0.1 / count)
    generator = torch.Generator().manual_seed(0)
    for rank in range(40):
        first, second = torch.randperm(count, generator=generator)[:2].tolist()
        share_KK[first, second] = share_KK[second, first] = 0.5 - 0.01 * rank
    share_KK[58, 59] = share_KK[59, 58] = 0.9
    keep_relations(tmp_path, nn.ModuleDict({"x": TargetMatrix(share_KK)}), names)
    said = json.loads((tmp_path / RELATIONS).read_text())["x"]
    assert said["pairs"][0] == ["c58", "c59", 0.9]
    assert len(said["pairs"]) == PAIRS
    kept = said["class_names"]
    assert len(kept) <= MOST_CLASSES
    assert kept == sorted(kept)
    # Pair by pair, as far as there is room.
    assert {"c58", "c59", *said["pairs"][1][:2], *said["pairs"][9][:2]} <= set(kept)
    for row, name in enumerate(kept):
        whole = share_KK[int(name[1:])]
        expected = [float(whole[int(other[1:])]) for other in kept]
        assert said["share"][row] == pytest.approx(expected, abs=1e-6)
    run = make(tmp_path / "r")
    (tmp_path / RELATIONS).rename(run / RELATIONS)
    found = read_run(run).relations["x"]
    assert found.class_names == kept


def test_nothing_is_kept_where_nobody_relates_classes(tmp_path: Path) -> None:
    keep_relations(tmp_path, nn.ModuleDict({"x": nn.Linear(2, 2)}), "ab")
    assert not (tmp_path / RELATIONS).exists()


def test_centroids_are_means_over_a_class(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the network's own layers, called by hand on every image of a class."""
    network, data = load_model(made.teacher), open_dataset("digits")
    monkeypatch.setattr(setting, "CENTROID_IMAGES", 10_000)
    here = runtime.decide("cpu")
    found_KD = class_centroids(network, "run", data, here)
    labels = data.train.label_N[data.fit_rows]
    for label in (0, 7):
        rows = data.fit_rows[labels == label]
        images = data.train.take(rows).images_NCHW / 255
        with torch.no_grad():
            plain = (images - network.mean) / network.std
            features = network.net.forward_head(
                network.net.forward_features(plain), pre_logits=True
            )
        assert torch.allclose(found_KD[label].float(), features.mean(dim=0), atol=1e-4)
    monkeypatch.setattr(setting, "CENTROID_IMAGES", 40)
    some_KD = class_centroids(network, "run", data, here)
    assert not torch.equal(some_KD, found_KD)
    # A third of a class lies near its mean, nearer than any other class's.
    assert torch.cdist(some_KD, found_KD).argmin(dim=1).tolist() == list(range(10))
