"""A network as an ONNX model, and an ONNX model as a network. Shapes: B images of C × H × W, K classes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_cli.errors import ArtifactError, UsageError, reason
from distill_cli.models import Network, config_of
from distill_cli.models.taps import eval_mode

OPSET = 18
# Bytes of one file of ONNX's, less some of its graph.
MOST = (1 << 31) - (1 << 26)
INPUT, OUTPUT = "images", "logits"
TAKES = (
    "images (batch, C, H, W), fp32 in [0, 1] and not normalised: mean and std are in the network"
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the libraries have to say of their work to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def onnx_of(folder: Path, network: Network) -> Any:
    """The network as an ONNX `ModelProto`, whose images are not normalised yet.

    Args:
        folder: Where it is from, for messages.
        network: The network, on the CPU.

    Raises:
        UsageError: It is larger than a file of ONNX's can be.
        ArtifactError: torch has no ONNX for something in it.
    """
    size = sum(value.numel() * value.element_size() for value in network.net.state_dict().values())
    if size > MOST:
        raise UsageError(
            f"{folder} has {size:,} bytes of weights, and one ONNX file has at most {MOST:,}",
            hint="Give --format packed where its weights are quantised",
        )
    images_BCHW = torch.rand(2, *network.input_size, generator=torch.Generator().manual_seed(0))
    try:
        with quiet(), eval_mode(network), torch.no_grad():
            program = torch.onnx.export(
                network,
                (images_BCHW,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
            )
        assert program is not None
        model = program.model_proto
    except Exception as error:
        # The exporter raises any exception on what it does not know.
        raise ArtifactError(
            f"torch cannot turn {network.architecture} of {folder} into ONNX: "
            f"{type(error).__name__}: {reason(error):.200}",
            hint="Another version of torch or onnxscript may",
        ) from None
    _strip(model)
    return model


def _strip(model: Any) -> None:
    """Removes what the exporter notes of this machine: stack traces with paths of files."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for function in model.functions:
        for part in (function, *function.node, *function.value_info):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")


def with_facts(model: Any, network: Network, more: dict[str, Any]) -> bytes:
    """The file of a model, which says what it takes and answers under the key `distill`.

    Args:
        model: The ONNX model, which is changed.
        network: What it was made of.
        more: Further values.
    """
    facts = {"input": TAKES, **config_of(network)["distill"], **more}
    entry = model.metadata_props.add()
    entry.key, entry.value = "distill", json.dumps(facts, ensure_ascii=False, sort_keys=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class OnnxNetwork(nn.Module):
    """An ONNX model in ONNX Runtime on the CPU, as a network.

    Args:
        content: The file.
        fitted: Converts images to the channels and the size that the model takes.

    Raises:
        ArtifactError: ONNX Runtime does not take the model.
    """

    def __init__(self, content: bytes, fitted: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Errors alone.
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # The exporter's simplifications may break a graph; the runtime raises kinds of its own.
            raise ArtifactError(
                "ONNX Runtime does not take what torch made of the network: "
                f"{type(error).__name__}: {reason(error):.200}; nothing is written",
                hint="Another version of torch, onnxscript or onnxruntime may",
            ) from None
        self._fitted = fitted

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images in [0, 1]."""
        images = self._fitted(images_BCHW).contiguous().numpy()
        (logits_BK,) = self._session.run([OUTPUT], {INPUT: images})
        return torch.from_numpy(logits_BK)
