"""The end of a run: test looked at once, figures kept, gates checked."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from distill_cli.adapters.hooks import HasSummary
from distill_cli.evaluate import latency_ms, logits_by_ranks, measured
from distill_cli.files import write_json, write_text
from distill_cli.metrics import fit_temperature, measure_as
from distill_cli.models import (
    Network,
    config_of,
    few_bits_of,
    load_model,
    model_bytes,
    save_temperature,
)
from distill_cli.models.quantised import as_saved
from distill_cli.pipeline.inputs.remedies import remedies
from distill_cli.pipeline.inputs.teacher_checks import at_chance
from distill_cli.pipeline.run.likeness import Likeness, compared, is_compared
from distill_cli.pipeline.run.peer_figures import peer_results
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.pipeline.run.recalibrate import recalibrated
from distill_cli.report.model_card import model_card
from distill_cli.report.model_readme import model_readme
from distill_cli.sharding import fill
from distill_cli.training.events import Sink
from distill_cli.training.state import State
from distill_cli.types import UNLABELLED, HintResult, PeerResult, RunResult


def finish(prepared: PreparedRun, state: State, sink: Sink) -> RunResult:
    """Evaluates the best epoch's weights on test, and writes its cards and result.json."""
    dataset, runtime = prepared.dataset, prepared.runtime
    network = _best(prepared, sink)
    figures = {**state.best, **recalibrated(prepared, network, sink)}
    test_NK = logits_by_ranks(network, dataset.test, runtime.device, runtime.ranks)
    val_NK: Tensor | None = None
    if len(dataset.val.label_N) and (_fitted_on(prepared, network) or is_compared(prepared)):
        val_NK = logits_by_ranks(network, dataset.val, runtime.device, runtime.ranks)
    peers = peer_results(prepared, sink.message)
    kept = partial(_kept, prepared, state, sink, network, test_NK, val_NK, figures, peers)
    if runtime.shard == "none":
        return runtime.ranks.led(kept)
    # Networks in parts are asked by all ranks at once; rank 0 alone writes, and its figures count.
    return runtime.ranks.values(runtime.ranks.together(kept))[0]


def _best(prepared: PreparedRun, sink: Sink) -> Network:
    """The best epoch's network, which rank 0 reads."""
    ranks, device, network = prepared.runtime.ranks, prepared.runtime.device, prepared.network
    if prepared.weights is not None:
        best = load_model(prepared.run / "model", tell=sink.message) if ranks.leads else None
        kept = {} if best is None else best.net.state_dict()
        for name, value in network.net.state_dict().items():
            # All of one tensor at a time.
            given = torch.empty(value.shape, dtype=value.dtype, device=device)
            if best is not None:
                given.copy_(kept[name])
            ranks.same([given])
            fill(value, given)
        return network.eval()
    if ranks.leads:
        network = load_model(prepared.run / "model", tell=sink.message).to(device)
    elif network.bits is not None:
        # As it is saved: without what only learning needs.
        network = as_saved(network)
    values = network.state_dict()
    ranks.same([values[name] for name in sorted(values)])
    return network.eval()


def _kept(
    prepared: PreparedRun,
    state: State,
    sink: Sink,
    network: Network,
    logits_NK: Tensor,
    val_NK: Tensor | None,
    chosen: Mapping[str, float],
    peers: Sequence[PeerResult],
) -> RunResult:
    """The figures of a run, written to its folder.

    Args:
        prepared: The run.
        state: State of the loop.
        sink: Shows messages.
        network: The best epoch's.
        logits_NK: Its answers to the test images.
        val_NK: Its answers to the held-out images; None where nothing is asked of them.
        chosen: Held-out figures of what is kept.
        peers: Figures of the networks that were trained along.
    """
    run, dataset, runtime = prepared.run, prepared.dataset, prepared.runtime
    test = dataset.test
    figures = measure_as(network.targets, logits_NK, test.label_N, test.label_NK)
    coarse = scaled = temperature = None
    if dataset.group_K is not None:
        coarse = measured(network, logits_NK, test, dataset.group_K)
    if val_NK is not None and _fitted_on(prepared, network):
        fitted = fit_temperature(val_NK, dataset.val.label_N)
        temperature = fitted.value
        if fitted.why_not is not None:
            sink.message(f"no temperature is fitted: {fitted.why_not}")
        save_temperature(network, run, temperature)
        scaled = measure_as("softmax", logits_NK / temperature, test.label_N, None)
    tested = compared(prepared, "test", logits_NK, sink)
    held_out = Likeness() if val_NK is None else compared(prepared, "val", val_NK, sink)
    result = RunResult(
        test_top1=figures.top1,
        test_errors=figures.errors,
        test_samples=figures.samples,
        test_nll=figures.nll,
        test_ece=figures.ece,
        temperature=temperature,
        test_nll_scaled=None if scaled is None else scaled.nll,
        test_ece_scaled=None if scaled is None else scaled.ece,
        test_map=figures.map,
        test_f1=figures.f1,
        test_macro_f1=figures.macro_f1,
        test_coarse_top1=None if coarse is None else coarse.top1,
        val_top1=chosen.get("val_top1"),
        val_map=chosen.get("val_map"),
        best_epoch=state.best_epoch + 1,
        params=network.num_params,
        model_bytes=model_bytes(run / "model"),
        **few_bits_of(run / "model"),
        latency_ms=latency_ms(network, test.size, runtime.device),
        images_per_second=statistics.median(state.rates[1:] or state.rates),
        seconds=state.seconds,
        teacher_agreement=tested.agreement,
        teacher_kl=tested.divergence,
        val_teacher_kl=held_out.divergence,
        peers=tuple(peers),
        warnings=_warnings(state, at_chance(network, dataset, runtime.device, _tries(prepared))),
    )
    card = model_card(prepared.kept.model_dump(mode="json"), result, config_of(network))
    write_text(run / "MODEL_CARD.md", card)
    readme = model_readme(prepared.kept.model_dump(mode="json"), result, config_of(network))
    write_text(run / "model" / "README.md", readme)
    # Last: a run that has it is finished.
    write_json(run / "result.json", result.to_json())
    return result


def _fitted_on(prepared: PreparedRun, network: Network) -> bool:
    """Whether a temperature can be fitted on the held-out images: one class of all applies, and is known."""
    fine = network.targets == "softmax" and prepared.dataset.group_K is None
    return fine and bool((prepared.dataset.val.label_N != UNLABELLED).any())


def finish_hints(prepared: PreparedRun, state: State) -> HintResult:
    """Writes the result.json of a hint-init."""
    adapters = prepared.layers.adapters
    result = HintResult(
        val_hint=state.best.get("val_hint"),
        best_epoch=state.best_epoch + 1,
        params=prepared.network.num_params,
        regressor_params=sum(parameter.numel() for parameter in adapters.parameters()),
        images_per_second=statistics.median(state.rates[1:] or state.rates),
        seconds=state.seconds,
        warnings=_warnings(state),
    )
    prepared.runtime.ranks.led(lambda: write_json(prepared.run / "result.json", result.to_json()))
    return result


def _tries(prepared: PreparedRun) -> list[str]:
    recipe, dataset = prepared.recipe, prepared.dataset
    return remedies(
        recipe.model_dump(include={"epochs", "batch_size", "pretrained", "init"}),
        architecture=recipe.model,
        side=max(dataset.height, dataset.width),
        rows=len(dataset.fit_rows),
    )


def _warnings(state: State, *others: str | None) -> tuple[str, ...]:
    """The warnings about terms that grew, and the others, the worst last."""
    grown = state.growth.warnings.values()
    return (*grown, *(warning for warning in others if warning is not None))


def say_told(adapters: nn.ModuleDict, class_names: Sequence[str], sink: Sink) -> None:
    """Says what adapters have to say once training is over, behind their objectives' names."""
    for name, adapter in adapters.named_modules():
        if isinstance(adapter, HasSummary):
            for line in adapter.summary(class_names):
                sink.message(f"{name}: {line}")
