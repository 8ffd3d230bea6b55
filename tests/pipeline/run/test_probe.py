"""The probe: a function of (seed, epoch), of training rows as they are, and it leaves no trace."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.errors import ArtifactError
from distill_cli.models import InputSpec, Network, create_network
from distill_cli.models.taps import signals_of
from distill_cli.pipeline.run.probe import check_judged, penultimate_of
from distill_cli.types import PENULTIMATE


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits")


@pytest.fixture
def network(digits: Dataset) -> Network:
    torch.manual_seed(0)
    view = InputSpec(channels=1, height=8, width=8, mean=digits.mean, std=digits.std)
    return create_network("cifar_resnet8", class_names=digits.class_names, view=view, dropout=0.3)


def probe(network: Network, digits: Dataset, **asked: int) -> list[torch.Tensor]:
    given = {"seed": 0, "epoch": 0, "samples": 96, "batch": 32, **asked}
    seed = given.pop("seed")
    return list(penultimate_of(network, digits.train, digits.fit_rows, seed, **given))


def test_it_is_a_function_of_seed_and_epoch(network: Network, digits: Dataset) -> None:
    first = torch.cat(probe(network, digits))
    assert torch.equal(first, torch.cat(probe(network, digits)))
    assert not torch.equal(first, torch.cat(probe(network, digits, epoch=1)))
    assert not torch.equal(first, torch.cat(probe(network, digits, seed=1)))
    assert first.dtype == torch.float32
    assert not first.requires_grad


def test_it_shows_each_training_row_once_and_no_held_out_one(
    network: Network, digits: Dataset
) -> None:
    everything = len(digits.fit_rows)
    (found_ND,) = probe(network, digits, samples=10**6, batch=everything)
    network.eval()
    with torch.no_grad():
        images = digits.train.images_NCHW[digits.fit_rows] / 255
        expected_ND = signals_of(network, images, (PENULTIMATE,)).features[PENULTIMATE].flatten(1)
    nearest = torch.cdist(found_ND.double(), expected_ND.double()).min(dim=1)
    assert float(nearest.values.max()) < 1e-4
    assert sorted(nearest.indices.tolist()) == list(range(everything))
    assert nearest.indices.tolist() != list(range(everything))


def test_batches_are_whole(network: Network, digits: Dataset) -> None:
    sizes = [len(each) for each in probe(network, digits, samples=100, batch=32)]
    assert sizes == [32, 32, 32]
    everything = len(digits.fit_rows)
    assert [len(each) for each in probe(network, digits, samples=10**6, batch=10**5)] == [
        everything
    ]


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_no_trace(network: Network, digits: Dataset, training: bool) -> None:
    network.train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    probe(network, digits)
    assert network.training == training
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_labels_must_be_there(digits: Dataset) -> None:
    without = replace(digits.train, label_N=torch.full_like(digits.train.label_N, -1))
    with pytest.raises(ArtifactError, match="no training image of digits has one"):
        check_judged(("d2l",), replace(digits, train=without))
    check_judged((), replace(digits, train=without))
    check_judged(("d2l",), digits)
