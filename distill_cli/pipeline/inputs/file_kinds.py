"""Files that people give in the place of a run folder: what they are, and what to give. Torch-free."""

from __future__ import annotations

import zipfile
from pathlib import Path

from distill_cli.errors import ArtifactError, UsageError
from distill_cli.pipeline.folders import has_model

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
WEIGHTS = (".safetensors", *PICKLES)
BUILD = (
    "Build the network with timm, load the weights, and save both: "
    "timm.models.save_for_hf(network, 'FOLDER', safe_serialization=True); then give FOLDER"
)


def refuse_file(path: Path, subject: str) -> None:
    """Refuses a file where a folder with a network belongs, or a folder of weights alone.

    Any other path is left to the caller.

    Args:
        path: A path that was given, and is no run, model or cache folder.
        subject: What it was given as, as `teacher`.

    Raises:
        UsageError: It lies in a run or model folder, which is what to give.
        ArtifactError: It holds weights without their network, or something else.
    """
    if path.is_dir() and not has_model(path):
        inside = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
        path = inside[0] if inside else path
    if not path.is_file():
        return
    for folder in path.absolute().parents[:2]:
        if has_model(folder):
            raise UsageError(
                f"{subject} '{path}' is a file of a run or model", hint=f"Give the folder: {folder}"
            )
    raise ArtifactError(f"{subject} '{path}' is {_kind(path)}", hint=_remedy(path))


def _kind(path: Path) -> str:
    if path.suffix == ".safetensors":
        return "weights without their network"
    if path.suffix == ".onnx":
        return "a network in ONNX, which is not asked"
    if path.suffix in PICKLES or zipfile.is_zipfile(path):
        return "a pickle of weights without their network, and is not read: a pickle can run code"
    return "a file, and no run, model or cache folder"


def _remedy(path: Path) -> str:
    if path.suffix == ".onnx":
        return "Its logits, as an .npz, become a cache with `distill cache import`"
    if path.suffix in WEIGHTS or zipfile.is_zipfile(path):
        return BUILD
    return "Give the folder that `distill teacher train` made"
