"""Writes a view's labels as a file that other tools read, and `distill cache import` too.

Shapes: N rows, K classes, B rows of a chunk.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from distill_cli.cache.reader import CacheReader
from distill_cli.errors import UsageError
from distill_cli.files import csv_text, write_atomically
from distill_cli.types import Count

ROWS = 8192


def export(
    reader: CacheReader, path: Path, *, view: int, temperature: float | None, progress: Count
) -> str:
    """Writes the labels of a view: logits as they are stored, or probabilities at a temperature.

    An .npz has an array named after the kind, (N, K) fp32, `classes`, and `samples` where the cache
    has the sample ids; a .csv has a row for each sample, under `sample` and the class names.
    The same cache makes the same bytes.

    Args:
        reader: The cache.
        path: The file, a .npz or a .csv.
        view: Number of the view, from 0.
        temperature: Temperature of the probabilities; None for logits, or for probabilities at T = 1
            where the codec does not keep all logits.
        progress: Called with (rows written, rows in all).

    Returns:
        The kind of the numbers: `logits` or `probabilities`.

    Raises:
        UsageError: The cache cannot be written so: no such view, no ids for a .csv, no
            probabilities of labels that apply each by itself.
        ArtifactError: A file of the cache is missing or damaged.
        InternalError: The disk is full or refuses the write.
    """
    plan, sample_ids = reader.plan, reader.sample_ids()
    if not 0 <= view < plan.views:
        raise UsageError(f"--view {view}: the cache has views 0 to {plan.views - 1}")
    if temperature is not None and plan.targets == "sigmoid":
        raise UsageError(
            "each of these labels applies or not by itself: they have no softmax at a temperature",
            hint="Leave -T out to have their logits",
        )
    logits = temperature is None and reader.codec.dense
    kind, classes = "logits" if logits else "probabilities", reader.class_names
    chunks = _labels(reader, view, None if logits else temperature or 1.0, progress)
    if path.suffix == ".csv":
        if sample_ids is None:
            raise UsageError(
                f"{reader.folder} does not name its samples, and a .csv has to",
                hint="Give --out FILE.npz: its rows are in the order of the sorted sample ids",
            )
        rows = zip(sample_ids, (row for chunk_BK in chunks for row in chunk_BK), strict=True)
        write_atomically(path, lambda handle: _write_csv(handle, classes, rows))
        return kind
    names = {"classes": classes, **({} if sample_ids is None else {"samples": sample_ids})}
    shape = plan.dataset.rows, len(classes)

    def write(handle: BinaryIO) -> None:
        with zipfile.ZipFile(handle, "w") as archive:
            with archive.open(f"{kind}.npy", "w", force_zip64=True) as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for chunk_BK in chunks:
                    file.write(chunk_BK.tobytes())
            for name, values in names.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.array(values, dtype=str))

    write_atomically(path, write)
    return kind


def _labels(
    reader: CacheReader, view: int, temperature: float | None, progress: Count
) -> Iterator[npt.NDArray[np.float32]]:
    """The labels of all rows, chunk by chunk: probabilities, or logits without a temperature."""
    samples = reader.plan.dataset.rows
    for start in range(0, samples, ROWS):
        index_B = torch.arange(start, min(start + ROWS, samples))
        rows = reader.gather(index_B, torch.full_like(index_B, view))
        labels_BK = reader.codec.logits(rows)
        if temperature is not None:
            labels_BK = reader.codec.log_probs(rows, temperature, torch.float64).exp()
        assert labels_BK is not None
        yield labels_BK.numpy().astype("<f4")
        progress(start + len(index_B), samples)


def _write_csv(
    handle: BinaryIO, classes: tuple[str, ...], rows: Iterator[tuple[str, npt.NDArray[np.float32]]]
) -> None:
    file = io.TextIOWrapper(handle, encoding="utf-8", newline="")
    file.write(csv_text([["sample", *classes]]))
    for sample_id, label_K in rows:
        # Nine digits give each fp32 number back.
        file.write(csv_text([[sample_id, *(f"{value:.9g}" for value in label_K)]]))
    # The handle stays open to whoever writes the file.
    file.detach()
