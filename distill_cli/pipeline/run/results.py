"""The end of a run: test looked at once, figures kept, gates checked."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_cli.adapters.hooks import HasSummary
from distill_cli.data.dataset import Dataset
from distill_cli.data.split_images import Images
from distill_cli.evaluate import latency_ms, logits_of
from distill_cli.files import write_json, write_text
from distill_cli.metrics import agreement, fit_temperature, label_agreement, measure_as
from distill_cli.models import Network, load_model, model_bytes, save_temperature
from distill_cli.pipeline.inputs.teacher_checks import at_chance
from distill_cli.pipeline.inputs.teachers import Member
from distill_cli.recipe.base import TrainRecipe
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.report.model_card import model_card
from distill_cli.runtime import Runtime
from distill_cli.teachers.live import LiveTeacher
from distill_cli.teachers.signals import DenseSignals, EnsembleSignals, mean_of_logits
from distill_cli.training.events import Sink
from distill_cli.training.state import State
from distill_cli.types import UNLABELLED, HintResult, RunResult


def finish(
    recipe: TrainRecipe,
    dataset: Dataset,
    members: Sequence[Member],
    state: State,
    *,
    runtime: Runtime,
    sink: Sink,
) -> RunResult:
    """Evaluates the best epoch's weights on test, and writes result.json and MODEL_CARD.md."""
    run = Path(str(recipe.out))
    network = load_model(run / "model").to(runtime.device).eval()
    test = dataset.test
    logits_NK = logits_of(network, test.iter_plain(), runtime.device)
    figures = measure_as(network.targets, logits_NK, test.label_N, test.label_NK)
    scaled = temperature = None
    if network.targets == "softmax" and bool((dataset.val.label_N != UNLABELLED).any()):
        val_NK = logits_of(network, dataset.val.iter_plain(), runtime.device)
        fitted = fit_temperature(val_NK, dataset.val.label_N)
        temperature = fitted.value
        if fitted.why_not is not None:
            sink.message(f"no temperature is fitted: {fitted.why_not}")
        save_temperature(network, run, temperature)
        scaled = measure_as("softmax", logits_NK / temperature, test.label_N, None)
    same = divergence = None
    if isinstance(recipe, StudentRecipe):
        said = _said(members, test, runtime.device)
        if said is not None and network.targets == "softmax":
            same, divergence = agreement(logits_NK, _log_probs(recipe, said))
        elif said is not None:
            same, divergence = label_agreement(logits_NK, _label_logits(recipe, said))
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
        val_top1=state.best["val_top1"],
        val_map=state.best.get("val_map"),
        best_epoch=state.best_epoch + 1,
        params=network.num_params,
        model_bytes=model_bytes(run / "model"),
        latency_ms=latency_ms(network, test.size, runtime.device),
        images_per_second=statistics.median(state.rates[1:] or state.rates),
        seconds=state.seconds,
        teacher_agreement=same,
        teacher_kl=divergence,
        warnings=_warnings(state, at_chance(network, dataset.val, runtime.device)),
    )
    write_json(run / "result.json", result.to_json())
    write_text(run / "MODEL_CARD.md", model_card(recipe.model_dump(mode="json"), result))
    return result


def finish_hints(
    recipe: TrainRecipe, network: Network, adapters: nn.Module, state: State
) -> HintResult:
    """Writes the result.json of a hint-init."""
    result = HintResult(
        val_hint=state.best["val_hint"],
        best_epoch=state.best_epoch + 1,
        params=network.num_params,
        regressor_params=sum(parameter.numel() for parameter in adapters.parameters()),
        images_per_second=statistics.median(state.rates[1:] or state.rates),
        seconds=state.seconds,
        warnings=_warnings(state),
    )
    write_json(Path(str(recipe.out)) / "result.json", result.to_json())
    return result


def _warnings(state: State, *others: str | None) -> tuple[str, ...]:
    """What was said of the terms, and what else there is to say, the worst last."""
    return (*state.growth.said.values(), *(each for each in others if each is not None))


def say_told(adapters: nn.ModuleDict, class_names: Sequence[str], sink: Sink) -> None:
    """Says what adapters have to say once training is over, behind their objectives' names."""
    for name, adapter in adapters.named_modules():
        if isinstance(adapter, HasSummary):
            for line in adapter.summary(class_names):
                sink.message(f"{name}: {line}")


def _said(
    members: Sequence[Member], test: Images, device: torch.device
) -> list[DenseSignals] | None:
    """What each teacher says of the test images; None where that of one is not known."""
    signals = []
    for member in members:
        if isinstance(member, LiveTeacher):
            logits_NK: Tensor | None = logits_of(member.logits, test.iter_plain(), device)
        else:
            logits_NK = member.stored("test", test.label_N)
        if logits_NK is None:
            return None
        signals.append(DenseSignals(logits_NK))
    return signals


def _heard(
    recipe: StudentRecipe, signals: Sequence[DenseSignals]
) -> tuple[tuple[DenseSignals, ...], tuple[float, ...]]:
    """The teachers of some weight, and their weights, scaled to sum 1.

    A random teacher is compared as its expectation, the weighted mean, and so are relabelled data.
    """
    shares = recipe.teacher_weights or [1.0] * len(signals)
    heard = [(s, w / sum(shares)) for s, w in zip(signals, shares, strict=True) if w > 0]
    return tuple(s for s, _ in heard), tuple(w for _, w in heard)


def _log_probs(recipe: StudentRecipe, signals: Sequence[DenseSignals]) -> Tensor:
    """What teachers together say at T = 1, (N, K)."""
    said, weights = _heard(recipe, signals)
    if recipe.ensemble_of == "logits":
        return mean_of_logits(said, weights).log_probs(1.0)
    return EnsembleSignals(said, weights).log_probs(1.0)


def _label_logits(recipe: StudentRecipe, signals: Sequence[DenseSignals]) -> Tensor:
    """What teachers together say of each label by itself, as logits, (N, K)."""
    said, weights = _heard(recipe, signals)
    if recipe.ensemble_of == "logits" or len(said) == 1:
        return mean_of_logits(said, weights).logits_BK
    # A label's yes and no are two classes of logits z and 0.
    pairs = tuple(
        DenseSignals(torch.stack([each.logits_BK, torch.zeros_like(each.logits_BK)], dim=-1))
        for each in said
    )
    log_probs_NK2 = EnsembleSignals(pairs, weights).log_probs(1.0)
    return log_probs_NK2[..., 0] - log_probs_NK2[..., 1]
