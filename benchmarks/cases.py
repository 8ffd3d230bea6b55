"""The table of ratios: what is compared with what, and what it must reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import bare, ours
from benchmarks.inputs import large_images, small_images
from benchmarks.pairs import Turn
from distill_cli import runtime
from distill_cli.models import load_model
from distill_cli.pipeline.run.prepared import PreparedRun

BATCH = 128
# Share of the throughput of plain cross-entropy: a step may take a tenth longer.
LEAST = 1 / 1.10


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row.

    Attributes:
        name: The two sides that are compared.
        ours: Our side, taken first.
        other: The side that it is compared with.
        least: The ratio to reach; None where only arithmetic predicts it.
        predict: Computes the ratio that arithmetic predicts; None where nothing does.
        compiling: Seconds that compiling our side took, asked after the turns; None where it is not.
    """

    name: str
    ours: Turn
    other: Turn
    least: float | None = None
    predict: Any = None
    compiling: Callable[[], float] | None = None


def tensors(plan: PreparedRun, *, held_out: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The training rows of a plan, normalised, and their labels, on its device."""
    data, device = plan.dataset, plan.runtime.device
    rows = torch.arange(len(data.train.label_N)) if held_out else data.fit_rows
    images = data.train.images_NCHW[rows].to(device).float() / 255  # type: ignore[union-attr]
    mean = torch.tensor(data.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(data.std, device=device).view(1, -1, 1, 1)
    return (images - mean) / std, data.train.label_N[rows].to(device)


def by_hand(run: ours.Run, pad: int) -> bare.Training:
    """The hand-written loop with the same network, precision and batch."""
    plan = run.plan
    torch.manual_seed(0)
    net = load_model(ours.network(plan.run / "bare", str(plan.recipe.model), plan)).net
    net = net.to(plan.runtime.device).to(memory_format=plan.runtime.memory_format)
    return bare.Training(net, *tensors(plan), BATCH, pad, plan.runtime.autocast)


def against_bare(root: Path) -> Iterator[Case]:
    mnist = small_images(root, "mnist", 2000)
    mlp = ours.training(root / "mlp", data=str(mnist), model="mlp_800x2", augment=["none"])
    yield Case(
        name="mlp_800x2, MNIST, over a bare loop",
        ours=mlp,
        other=by_hand(mlp, 0),
        least=0.90,
    )
    for model, per_class in (("cifar_resnet20", 114), ("cifar_resnet8x4", 57)):
        cifar = small_images(root, "cifar10", per_class)
        run = ours.training(
            root / model, data=str(cifar), model=model, augment=["crop:4", "flip"], batch_size=BATCH
        )
        yield Case(
            name=f"{model}, CIFAR-10, crop and flip, over a bare loop",
            ours=run,
            other=by_hand(run, 4),
            least=0.97,
        )


def from_caches(root: Path) -> Iterator[Case]:
    cifar = small_images(root, "cifar10", 114)
    common: dict[str, Any] = {"data": str(cifar), "augment": ["crop:4", "flip"]}
    hard = ours.training(root / "hard", model="cifar_resnet20", **common)
    caches = []
    for seed in range(5):
        net = ours.network(root / f"teacher-{seed}", "cifar_resnet8", hard.plan, seed)
        caches.append(ours.cache(root / f"cache-{seed}", net, views=2, **common))
    one = ours.student(root / "one", caches[:1], model="cifar_resnet20", data=str(cifar))
    yield Case(
        name="cifar_resnet20 from a cache, over the same on hard labels",
        ours=one,
        other=hard,
        least=0.97,
    )
    for mode, least in (("random", 0.97), ("ensemble", 0.93)):
        five = ours.student(root / mode, caches, model="cifar_resnet20", mode=mode, data=str(cifar))
        yield Case(
            name=f"cifar_resnet20 from five caches ({mode}), over one cache",
            ours=five,
            other=one,
            least=least,
        )


def seconds_of_forward(run: ours.Run) -> float:
    """The live teacher's forward on one batch, alone."""
    batch = next(run.trainer.loader.epoch(0))
    assert run.trainer.update.teacher is not None
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run.trainer.update.teacher.signals(batch)
        bare.synchronize(run.plan.runtime.device)
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


def live_or_cached(root: Path) -> Iterator[Case]:
    pairs = (("cifar_resnet56", "cifar_resnet20", 57), ("cifar_resnet32x4", "cifar_resnet8x4", 29))
    for teacher, model, per_class in pairs:
        cifar = small_images(root, "cifar10", per_class)
        common: dict[str, Any] = {"data": str(cifar), "augment": ["crop:4", "flip"]}
        plan = ours.training(root / f"plan-{model}", model=model, **common).plan
        net = ours.network(root / teacher, teacher, plan)
        labels = ours.cache(root / f"labels-{teacher}", net, **common)
        cached = ours.student(root / f"c-{model}", [labels], model=model, data=str(cifar))
        live = ours.student(root / f"l-{model}", [net], model=model, **common)

        def predicted(cached: ours.Run = cached, live: ours.Run = live) -> float:
            return 1 + seconds_of_forward(live) * cached() / BATCH

        yield Case(
            name=f"{model} from a cache, over {teacher} live",
            ours=cached,
            other=live,
            predict=predicted,
        )
        device, data = plan.runtime.device, plan.dataset
        online = bare.Online(
            load_model(ours.network(root / f"fresh-{model}", model, plan)).net.to(device),
            load_model(net).net.to(device),
            data.train.images_NCHW[data.fit_rows],  # type: ignore[union-attr]
            data.train.label_N[data.fit_rows],
            BATCH,
            device,
        )
        yield Case(
            name=f"{model} from a cache, over an online loop in fp32 with a Pillow loader",
            ours=cached,
            other=online,
        )


def dumps(root: Path) -> Iterator[Case]:
    # Whole teacher batches: the last one of a split is padded, which only a small split would show.
    cifar = small_images(root, "cifar10", 128)
    common: dict[str, Any] = {"data": str(cifar), "augment": ["crop:4", "flip"]}
    plan = ours.training(root / "plan", model="cifar_resnet20", **common).plan
    folder = ours.network(root / "teacher", "cifar_resnet20", plan)
    images, _ = tensors(plan, held_out=True)
    net = load_model(folder).net.to(plan.runtime.device)
    yield Case(
        name="cache-soft-labels of cifar_resnet20, over bare inference",
        ours=ours.Dump(root / "cache", folder, views=2, **common),
        other=bare.Inference(net, images, 256, 4),
        least=0.95,
    )


def large(root: Path) -> Iterator[Case]:
    folder = large_images(root, 640)
    workers, model = 2, "mobilenetv3_small_050"
    run = ours.training(
        root / "run",
        data=str(folder),
        model=model,
        size=224,
        batch_size=32,
        workers=workers,
        augment=["rrc", "flip"],
    )
    plan = run.plan
    net = load_model(ours.network(root / "net", model, plan)).net
    net = net.to(plan.runtime.device).to(memory_format=plan.runtime.memory_format)
    yield Case(
        name=f"{model}, 256-pixel JPEGs, two workers, over ImageFolder and DataLoader",
        ours=run,
        other=bare.Folder(
            net,
            folder,
            32,
            workers,
            plan.runtime.device,
            plan.runtime.autocast,
            len(plan.dataset.fit_rows),
        ),
        least=0.95,
    )


def objectives(root: Path) -> Iterator[Case]:
    """Cost of objectives beside cross-entropy; of those that ask a live teacher, beside kd."""
    cifar = small_images(root, "cifar10", 114)
    common: dict[str, Any] = {
        **{"data": str(cifar), "augment": ["crop:4", "flip"]},
        **{"model": "cifar_resnet20", "batch_size": BATCH},
    }
    free: dict[str, Any] = {"name": "category-structure", "form": "teacher-free"}
    alone: dict[str, tuple[Any, float | None]] = {
        "knowledge-refinery": ("knowledge-refinery", LEAST),
        "dropmax": ("dropmax", LEAST),
        "category-structure, teacher-free": ([{"name": "ce", "weight": 0.9}, free], LEAST),
        "label-smoothing": ("label-smoothing", None),
        "tfkd-reg": ("tfkd-reg", None),
        "disturb-label": ("disturb-label", None),
        "label-mix": ("label-mix", None),
        "selective,label-smoothing": ("selective,label-smoothing", None),
        "d2l": ("d2l", None),
    }
    hard = ours.training(root / "ce", objective="ce", **common)
    for name, (objective, least) in alone.items():
        run = ours.training(root / name, objective=objective, **common)
        yield Case(name=f"cifar_resnet20 with {name}, over ce", ours=run, other=hard, least=least)
    teacher = ours.network(root / "teacher", "cifar_resnet20", hard.plan)
    plain = ours.student(root / "kd", [teacher], **common)
    for name in ("category-structure", "feature-norm-kd"):
        run = ours.student(root / name, [teacher], objective=name, **common)
        yield Case(
            name=f"cifar_resnet20 with {name}, over kd from the same live teacher",
            ours=run,
            other=plain,
        )


def streams(root: Path, labelled: int = 64, per_class: int = 214) -> Iterator[Case]:
    """FixMatch's step over plain cross-entropy's, as many images through the network in each."""
    unlabelled = 7 * labelled
    through = labelled + 2 * unlabelled
    cifar = small_images(root, "cifar10", per_class)
    model = "cifar_resnet8"
    common: dict[str, Any] = {"data": str(cifar), "model": model}
    plain = ours.training(
        root / "plain", augment=["crop:4", "flip"], objective="ce", batch_size=through, **common
    )
    for kind, strong in (("crop and flip", ["crop:4", "flip"]), ("strong", "strong")):
        run = ours.student(
            root / kind.split()[0],
            ["self"],
            augment=strong,
            teacher_augment=["crop:4", "flip"],
            labels_per_class=25,
            unlabelled_share=unlabelled / (labelled + unlabelled),
            batch_size=labelled + unlabelled,
            objective="ce,pseudo-label",
            **common,
        )

        def turn(run: ours.Run = run) -> float:
            # The rate is of the student's images; the weak views go through the network too.
            return run() * through / (labelled + unlabelled)

        yield Case(
            name=f"{model}, FixMatch ({labelled} + {unlabelled} {kind} + {unlabelled} weak views), "
            f"over ce on {through}",
            ours=turn,
            other=plain,
        )


def bits(root: Path, per_class: int = 26) -> Iterator[Case]:
    """Steps of a network of few bits over those of the same in full precision."""
    yield from bits_over_full(root, data=str(small_images(root, "cifar10", per_class)))


def bits_over_full(root: Path, **options: Any) -> Iterator[Case]:
    """Rows of every quantiser, with these keys on both sides."""
    model = "cifar_resnet20"
    common: dict[str, Any] = {"model": model, "batch_size": 128, "objective": "ce", **options}
    full = ours.training(root / "full", **common)
    for name, few in (
        ("lsq, 2 bits", {"weight_bits": 2}),
        ("wrpn, 4 bits", {"weight_bits": 4, "quantizer": "wrpn"}),
        ("ternary", {"quantizer": "ternary"}),
        ("binary", {"weight_bits": 1}),
        ("lsq, 2 bits, activations of 4", {"weight_bits": 2, "act_bits": 4}),
    ):
        run = ours.training(root / name.replace(" ", "-"), **common, **few)
        captured = ", captured" if common.get("graphs") == "on" else ""
        yield Case(name=f"{model}, {name}, over full precision{captured}", ours=run, other=full)


CASES = {
    "bare": against_bare,
    "caches": from_caches,
    "live": live_or_cached,
    "dump": dumps,
    "files": large,
    "objectives": objectives,
    "streams": streams,
    "bits": bits,
}


def machine() -> dict[str, Any]:
    """The machine that the figures hold for."""
    decided = runtime.decide("auto", precision="auto")
    return {**runtime.describe(decided), "processors": torch.multiprocessing.cpu_count()}
