"""`python -m benchmarks.choose`: student accuracy against codec and against stored views.

Two marginal tables on CIFAR-10: what a practitioner should choose. The teacher is asked once, for
the largest cache in fp32; the others are what a dump with their own options would store, made from
it. Runs that are done are kept in the work folder, so that it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.study import RESULTS, arguments, cifar10, mean_and_sd, result_of, trained
from distill_cli.cache.codec import bytes_per_row, codec
from distill_cli.cache.pixel_probe import PixelProbe
from distill_cli.cache.reader import CacheReader
from distill_cli.cache.writer import CacheWriter
from distill_cli.files import write_text
from distill_cli.pipeline.labels.dump import dump
from distill_cli.recipe.schema import CacheRecipe, StudentRecipe, TeacherRecipe
from distill_cli.training.events import Silent

CODECS = ("fp32", "fp16", "topk:1", "topk:2", "topk:3", "topk:5")
VIEWS = (1, 2, 4, 8)
NARROW = {"widths": [8, 8, 16, 32]}


def variants(epochs: int) -> Iterator[tuple[str, int]]:
    """Codec and views of each cache: one of the two is the best there is."""
    yield from ((name, epochs) for name in CODECS)
    yield from (("fp32", views) for views in VIEWS if views < epochs)


def derived(source: Path, folder: Path, name: str, views: int) -> Path:
    """The cache that a dump with another codec or fewer views would have made."""
    reader = CacheReader(source)
    how = codec(name, len(reader.class_names)).name
    writer = CacheWriter(folder, replace(reader.plan, codec=how, views=views))
    target_N = torch.full((reader.plan.dataset.samples,), -1)
    for shard in writer.missing():
        index_B = torch.arange(shard.start, shard.stop)
        rows = reader.gather(index_B, torch.full_like(index_B, shard.view))
        writer.commit(shard, rows["logits"], target_N[: shard.rows])
    sample_ids = reader.sample_ids()
    if sample_ids is not None and not writer.has_ids:
        writer.write_ids(sample_ids)
    if not writer.has_eval:
        splits = {split: reader.eval_rows(split) for split in ("val", "test")}
        probe = reader.probe
        assert probe is not None
        kept = probe.view_P < views
        probe = PixelProbe(
            index_P=probe.index_P[kept],
            view_P=probe.view_P[kept],
            images_PCHW=probe.images_PCHW[kept],
        )
        writer.write_eval({k: rows for k, rows in splits.items() if rows}, probe)
    writer.finish()
    write_text(folder / "recipe.yaml", (source / "recipe.yaml").read_text())
    return folder


def main() -> None:
    defaults = {"per_class": 1000, "epochs": 16, "teacher_epochs": 20, "seeds": 3}
    args = arguments(__doc__, "choose", **defaults)
    work, data = args.work, str(cifar10(args.work, args.per_class))
    shared = {"data": data, "threads": args.threads, "augment": ["crop:4", "flip"]}
    teacher = {"model": "cifar_resnet20", "epochs": args.teacher_epochs}
    trained(TeacherRecipe, work / "teacher", **shared, **teacher)
    whole = work / "labels"
    dump(
        CacheRecipe(**shared, teachers=[str(work / "teacher")], views=args.epochs, out=str(whole)),
        sink=Silent(),
        progress=lambda done, total: None,
    )
    student = {"model": "cifar_resnet8", "model_args": NARROW, "epochs": args.epochs}
    for seed in range(args.seeds):
        for name, views in variants(args.epochs):
            key = f"{name.replace(':', '')}-{views}"
            cache = derived(whole, work / f"labels-{key}", name, views)
            taught = {"data": data, "threads": args.threads, "teachers": [str(cache)]}
            trained(StudentRecipe, work / f"{key}-{seed}", **taught, **student, seed=seed)
        trained(TeacherRecipe, work / f"hard-{seed}", **shared, **student, seed=seed)
        (RESULTS / "choose.md").write_text(report(args, work, seed + 1))


def report(args: argparse.Namespace, work: Path, seeds: int) -> str:
    teacher = result_of(work / "teacher")
    lost = {
        name: CacheReader(work / f"labels-{name.replace(':', '')}-{args.epochs}").manifest
        for name in CODECS
    }
    lines = [
        "# Which codec, and how many views",
        "",
        f"CIFAR-10, {10 * args.per_class:,} training images (a tenth of them held out to choose "
        f"the epoch), 10,000 test images looked at once; {args.epochs} epochs, crop and flip, "
        f"T = 4, alpha = 0.9; `cifar_resnet8` of a quarter of the parameters taught by "
        f"`cifar_resnet20` ({100 * teacher['test_top1']:.2f} % on test). Mean ± sd over {seeds} "
        "seeds. Made by `python -m benchmarks.choose`.",
        "",
        "| labels | bytes a view | KL lost at T = 4 | test accuracy | agrees with the teacher |",
        "|---|---|---|---|---|",
        row("hard labels, no teacher", "", "", work, "hard", seeds),
    ]
    for name in CODECS:
        size = bytes_per_row(codec(name, 10))
        kl = lost[name].truncation_error[4].mean_kl
        key = f"{name.replace(':', '')}-{args.epochs}"
        lines.append(row(f"`{name}`", str(size), f"{kl:.2g}", work, key, seeds))
    lines += [
        "",
        "| views stored (fp32) | test accuracy | agrees with the teacher |",
        "|---|---|---|",
    ]
    for views in [*(v for v in VIEWS if v < args.epochs), args.epochs]:
        many = " (as many as epochs)" if views == args.epochs else ""
        lines.append(row(f"{views}{many}", None, None, work, f"fp32-{views}", seeds))
    return "\n".join(lines) + "\n"


def row(name: str, size: str | None, lost: str | None, work: Path, key: str, seeds: int) -> str:
    found = [result_of(work / f"{key}-{s}") for s in range(seeds)]
    cells = [name, *(cell for cell in (size, lost) if cell is not None)]
    for figure in ("test_top1", "teacher_agreement"):
        cells.append(mean_and_sd([each[figure] for each in found], scale=100, unit=" %"))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
