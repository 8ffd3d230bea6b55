"""INT8 by ONNX Runtime's static quantisation: weights of each channel, activations by what images show.

Weights take 7 of the 8 bits: where a CPU has no VNNI, its sums of two products of 8 bits are cut off at 16 bits,
and the same file answers otherwise than on one that has it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from distill_cli.pipeline.export.onnx_file import INPUT, quiet


def int8_of(model: Any, batches: Iterable[Tensor], fitted: Callable[[Tensor], Tensor]) -> Any:
    """The model with INT8 weights and activations, between nodes that quantise and dequantise (QDQ).

    Args:
        model: An ONNX model in fp32.
        batches: uint8 images, whose activations set the ranges, from the least to the largest.
        fitted: Converts images to the channels and the size that the model takes.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self._batches, None)
            return None if images is None else {INPUT: fitted(images / 255).contiguous().numpy()}

    # onnxruntime passes models on in files.
    with tempfile.TemporaryDirectory(prefix="distill-int8-") as folder, quiet():
        plain, prepared, made = (Path(folder, f"{name}.onnx") for name in ("a", "b", "c"))
        onnx.save(model, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            *(prepared, made, Reader()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
        )
        return onnx.load(made)
