"""Figures of networks that are trained along: after each epoch, and of test at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill_cli.evaluate import logits_by_ranks
from distill_cli.metrics import measure_as
from distill_cli.models import Network, load_model, model_bytes
from distill_cli.pipeline.entries import PEERS
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.pipeline.run.validation import labels_held_out
from distill_cli.training.peers import Peer
from distill_cli.training.state import HeldOut
from distill_cli.types import PeerResult


def all_held_out(prepared: PreparedRun, network: Network) -> HeldOut:
    """Held-out figures of the student, which choose its epoch, and beside them those of its peers."""
    held_out = labels_held_out(prepared, network)
    beside = {peer.name: labels_held_out(prepared, peer.network) for peer in prepared.peers}
    figures = dict(held_out.figures)
    for name, own in beside.items():
        figures |= {f"{key}_{name}": value for key, value in own.figures.items()}
    return replace(held_out, figures=figures, beside=beside)


def folder_of(run: Path, peer: Peer) -> Path:
    """The folder of a network that was trained along."""
    return run / PEERS / peer.name


def peer_results(prepared: PreparedRun, tell: Callable[[str], Any]) -> list[PeerResult]:
    """Evaluates each on test, once; every rank calls at once.

    Args:
        prepared: The run.
        tell: Is told of weights without a checksum.
    """
    results = []
    dataset, runtime = prepared.dataset, prepared.runtime
    for peer in prepared.peers:
        folder, network = folder_of(prepared.run, peer), peer.network
        if runtime.ranks.leads:
            network = load_model(folder, tell=tell).to(runtime.device)
        runtime.ranks.same(network.state_dict().values())
        logits_NK = logits_by_ranks(network.eval(), dataset.test, runtime.device, runtime.ranks)
        test = dataset.test
        figures = measure_as(network.targets, logits_NK, test.label_N, test.label_NK)
        held_out = bool(len(dataset.val.label_N))
        results.append(
            PeerResult(
                name=peer.name,
                model=network.architecture,
                test_top1=figures.top1,
                test_errors=figures.errors,
                val_top1=float(peer.best_accuracy) if held_out else None,
                best_epoch=int(peer.best_epoch) + 1,
                params=network.num_params,
                model_bytes=model_bytes(folder) if runtime.ranks.leads else 0,
            )
        )
    return results
