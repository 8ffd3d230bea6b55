"""Files of labels that other people or tools made: a .csv or an .npz. Shapes: M rows, K classes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from distill_cli.errors import ArtifactError, DistillError, UsageError, counted, reason
from distill_cli.readers.bounds import memory
from distill_cli.readers.csv_rows import csv_rows
from distill_cli.recipe.schema import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
SAMPLE = "sample"

Floats = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """The content of a file of labels.

    Attributes:
        path: Path of the file.
        kind: Kind of its numbers.
        values_MK: The numbers, in the order of the file; NaN where a cell holds none.
        samples: Names of the samples, one for each row; None where the file has none.
        classes: Names of the classes, one for each column; None where the file has none.
    """

    path: Path
    kind: Kind
    values_MK: Floats
    samples: tuple[str, ...] | None
    classes: tuple[str, ...] | None


def read_label_file(path: Path, kind: Kind | None) -> LabelFile:
    """Reads a file of labels: an .npz by its name, else a CSV.

    Raises:
        UsageError: The file is missing, or holds several kinds of labels.
        ArtifactError: The file is malformed.
    """
    if not path.is_file():
        what = "are no file" if path.exists() else "do not exist"
        raise UsageError(f"labels '{path}' {what}", hint="Give a .csv or an .npz")
    return _read_npz(path, kind) if path.suffix == ".npz" else _read_csv(path, kind or "votes")


def _read_csv(path: Path, kind: Kind) -> LabelFile:
    samples: list[str] = []
    numbers = array("d")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv_rows(file)
            _, header = next(rows, (1, []))
            if header[:1] != [SAMPLE]:
                raise ArtifactError(
                    f"{path}: the first column should be '{SAMPLE}', is '{(header or [''])[0]:.40}'",
                    hint="A header comes first: sample and the classes, separated by commas",
                )
            for line, row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise ArtifactError(
                        f"{path}, line {line}: sample '{row[0]:.80}' has "
                        f"{counted(len(row) - 1, 'number')} for {counted(len(header) - 1, 'class', 'classes')}"
                    )
                samples.append(row[0])
                numbers.extend(map(_number, row[1:]))
    except UnicodeDecodeError:
        raise ArtifactError(f"{path} is no UTF-8 text", hint="Give a .csv or an .npz") from None
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read as CSV: {error}") from None
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None
    return LabelFile(
        path=path,
        kind=kind,
        values_MK=np.frombuffer(numbers, np.float64).reshape(len(samples), len(header) - 1),
        samples=tuple(samples),
        classes=tuple(header[1:]),
    )


def _number(text: str) -> float:
    """A cell as a number; NaN where it is none, so that it is refused together with its sample."""
    try:
        return float(text) if "_" not in text else float("nan")
    except ValueError:
        return float("nan")


def _read_npz(path: Path, kind: Kind | None) -> LabelFile:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ArtifactError(f"{path} is one array and no .npz", hint="Write it by numpy.savez")
        with loaded as archive:
            unpacked: int = sum(member.file_size for member in _members(archive))
            if unpacked > memory():
                raise ArtifactError(
                    f"{path} unpacks to {unpacked / 1e9:.1f} GB, more than the memory there is"
                )
            present = [kind_name for kind_name in KINDS if kind_name in archive.files]
            kind = kind or _only(path, present)
            if kind not in present:
                held = ", ".join(archive.files[:8]) or "nothing"
                raise ArtifactError(
                    f"{path} has no array '{kind or ' or '.join(KINDS)}', it has: {held}"
                )
            arrays = {
                name: archive[name]
                for name in (kind, "samples", "classes")
                if name in archive.files
            }
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("what it holds is no array")
    except DistillError:
        raise
    except Exception as error:
        # NumPy and zipfile raise many unrelated types on damaged or forged archives.
        raise ArtifactError(
            f"{path} cannot be read: {reason(error)}",
            hint="Write numbers, and names as np.array(names, dtype=str), by numpy.savez",
        ) from None
    values_MK = arrays[kind]
    if values_MK.ndim != 2 or values_MK.dtype.kind not in "fiu":
        raise ArtifactError(
            f"{path}: '{kind}' is {values_MK.dtype} of shape {values_MK.shape}",
            hint="It should be numbers, a row for each sample and a column for each class",
        )
    names = {key: _names(path, key, arrays.get(key)) for key in ("samples", "classes")}
    for key, length in zip(names, values_MK.shape, strict=True):
        name_list = names[key]
        if name_list is not None and len(name_list) != length:
            raise ArtifactError(
                f"{path}: '{kind}' has shape {values_MK.shape}, and there are {len(name_list):,} {key}"
            )
    return LabelFile(path=path, kind=kind, values_MK=values_MK, **names)


def _members(archive: Any) -> list[Any]:
    """The members of an .npz, which is a zip; NumPy's types do not say so."""
    return list(archive.zip.infolist())


def _only(path: Path, kinds: Sequence[Kind]) -> Kind | None:
    if len(kinds) > 1:
        raise UsageError(f"{path} holds {' and '.join(kinds)}", hint="Say which with --kind")
    return kinds[0] if kinds else None


def _names(path: Path, key: str, names: Floats | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise ArtifactError(
            f"{path}: '{key}' is {names.dtype} of shape {names.shape}",
            hint="It should be a list of names: np.array(names, dtype=str)",
        )
    try:
        decoded = np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names
    except UnicodeDecodeError:
        raise ArtifactError(f"{path}: '{key}' is no UTF-8 text") from None
    return tuple(decoded.tolist())
