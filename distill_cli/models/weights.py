"""Weights of a saved model: read from safetensors, checked, put into the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distill_cli.errors import ArtifactError
from distill_cli.models.build import explain
from distill_cli.models.checksum import check_weights
from distill_cli.models.finite import first_not_finite
from distill_cli.models.network import Network
from distill_cli.models.packed import Packing, forms, unpacked


def fill(
    network: Network,
    path: Path,
    packing: Packing | None = None,
    *,
    copy: bool,
    tell: Callable[[str], object],
) -> None:
    """Puts the weights of a safetensors file into a fresh network.

    Args:
        network: The network; names, types and shapes of all its tensors must agree with the file's.
        path: The file.
        packing: What is packed in it; None where nothing is.
        copy: Read and check the weights; otherwise only the file's header is.
        tell: Is told where the file has no checksum.

    Raises:
        ArtifactError: They do not agree, the file is damaged, or a weight is NaN or infinite.
    """
    try:
        # The file is mapped: tensors that are not copied are not read.
        given = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is no intact safetensors file: {explain(error)}",
            hint="Copy or train the model again",
        ) from None
    expected = network.net.state_dict()
    try:
        plain = given if packing is None else forms(given, packing)
    except ValueError as error:
        raise ArtifactError(
            f"{path} is not what its config.json describes: {error}",
            hint="config.json and the weights are of different models",
        ) from None
    for name in sorted(expected.keys() | plain.keys()):
        stored, needed = _form(plain.get(name)), _form(expected.get(name))
        if stored != needed:
            raise ArtifactError(
                f"{path} does not fit {network.architecture}: tensor {name} is {stored}, not {needed}",
                hint="config.json and the weights are of different models",
            )
    if not copy:
        return
    try:
        has_checksum = check_weights(path)
        if packing is not None:
            given = unpacked(given, packing)
    except ValueError as error:
        raise ArtifactError(
            f"{path} is damaged: {error}",
            hint="Copy or train the model again; whatever changes it on purpose leaves `checksum` out",
        ) from None
    if (fault := first_not_finite(given, expected)) is not None:
        raise ArtifactError(f"{path}: {fault}", hint="Train the model again, or take another one")
    if not has_checksum:
        tell(
            f"{path} has no checksum (an earlier version or another tool saved it): damage would not be seen"
        )
    network.net.load_state_dict(given)


def _form(value: Tensor | None) -> str:
    return "absent" if value is None else f"{str(value.dtype)[6:]} {list(value.shape)}"
