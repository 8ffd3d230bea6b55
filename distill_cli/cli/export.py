"""`distill export`."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distill_cli.cli.command import VerbApp, refuse_ranks
from distill_cli.cli.options import Json
from distill_cli.cli.terminal import escape, exactly, result, result_json, say
from distill_cli.errors import UsageError, counted
from distill_cli.files import one_writer
from distill_cli.pipeline.entries import (
    ONNX,
    ONNX_INT8,
    PACKED,
    PACKED_MODEL,
    check_model_output,
    onnx_output,
)
from distill_cli.pipeline.folders import check_finished, check_model_folder
from distill_cli.pipeline.inputs.file_kinds import refuse_file
from distill_cli.report.format import milliseconds, share, size
from distill_cli.report.run_folder import RECIPE

if TYPE_CHECKING:
    from distill_cli.models import PackedModel
    from distill_cli.pipeline.export.onnx_export import OnnxExport

app = VerbApp()
# Training images by which INT8 sets the ranges of activations, and the least share of equal answers.
CALIBRATE, AGREEMENT = 512, 0.95
# Packages of the extra `onnx`.
NEEDED = ("onnx", "onnxruntime", "onnxscript")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run or model folder.")],
    format: Annotated[
        Literal["packed", "onnx"],
        typer.Option(
            help="packed: weights of few bits as integers of so many bits; onnx: for other runtimes."
        ),
    ],
    int8: Annotated[
        bool, typer.Option("--int8", help="ONNX in INT8, by ONNX Runtime's static quantisation.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help=f"Default: RUN/{PACKED}, or the file RUN/{ONNX} or {ONNX_INT8}."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the packed model or ONNX file at --out.")
    ] = False,
    calibrate: Annotated[
        int | None,
        typer.Option(min=1, help=f"Training images that INT8 is set by. Default: {CALIBRATE}."),
    ] = None,
    require_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Write no ONNX that gives fewer of the held-out images the network's class. "
            f"Default: {AGREEMENT}.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data that ONNX is checked on; default: the run's own.")
    ] = None,
    json: Json = False,
) -> None:
    """A trained network for elsewhere: packed at its bits, or as ONNX.

    What is written is compared with the network before: packed weights to the bit, ONNX by its answers
    to the held-out images.

    Example: distill export runs/student-1 --format onnx --int8
    """
    refuse_ranks()
    refuse_file(run, "model")
    check_model_folder(run)
    check_finished([str(run)], None)
    if format == "packed":
        given = (calibrate, require_agreement, data)
        names = ("--calibrate", "--require-agreement", "--data")
        wrong = [name for name, value in zip(names, given, strict=True) if value is not None]
        if int8 or wrong:
            raise UsageError(f"{'--int8' if int8 else wrong[0]} goes with --format onnx")
        _packed(run, out, overwrite=overwrite, json=json)
        return
    if calibrate is not None and not int8:
        raise UsageError("--calibrate goes with --int8")
    count = (CALIBRATE if calibrate is None else calibrate) if int8 else None
    require = AGREEMENT if require_agreement is None else require_agreement
    file = _own(run, ONNX_INT8 if int8 else ONNX) if out is None else out
    target = onnx_output(run, file, overwrite=overwrite)
    from distill_cli.pipeline.inputs.places import check_beside_images

    check_beside_images(file, run, data, file=True)
    _check_installed()
    from distill_cli.pipeline.export.onnx_export import export_onnx

    made = export_onnx(
        run,
        target,
        data=data,
        calibrate=count,
        require=require,
        message=lambda text: say(escape(text)),
    )
    _show_onnx(run, file, made, json=json)


def _check_installed() -> None:
    """Refuses to begin without the packages that this needs.

    Raises:
        UsageError: With the way to get them.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UsageError(
            f"--format onnx needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            "not installed here",
            hint="pip install 'distill-cli[onnx]'",
        )


def _own(run: Path, name: str) -> Path:
    """A name in the run's folder, where nobody says another.

    Raises:
        UsageError: It is a model folder alone.
    """
    if not (run / RECIPE).is_file():
        raise UsageError(f"{run} is no run folder, whose own it could be", hint="Give --out")
    return run / name


def _packed(run: Path, out: Path | None, *, overwrite: bool, json: bool) -> None:
    target = _own(run, PACKED) if out is None else out
    check_model_output(target, own=out is None, overwrite=overwrite, kind=PACKED_MODEL)
    from distill_cli.models import save_packed
    from distill_cli.pipeline.inputs.places import check_beside_images

    check_beside_images(target, run)
    with one_writer(target):
        made = save_packed(run, target, tell=lambda text: say(escape(text)))
    if json:
        result_json(
            {
                "run": str(run),
                "out": str(target),
                "format": "packed",
                "bytes": made.bytes,
                "plain_bytes": made.plain_bytes,
                "layers": [
                    {
                        "name": name,
                        "quantizer": layer.quantizer,
                        "bits": layer.bits,
                        "weights": layer.weights,
                        "bytes": layer.bytes,
                    }
                    for name, layer in made.layers.items()
                ],
            }
        )
        return
    result(_packed_in_words(made))
    exactly(str(target))


def _packed_in_words(made: PackedModel) -> str:
    by_bits: dict[int, int] = {}
    for layer in made.layers.values():
        by_bits[layer.bits] = by_bits.get(layer.bits, 0) + 1
    layers = ", ".join(
        f"{counted(count, 'layer')} of {counted(bits, 'bit')}"
        for bits, count in sorted(by_bits.items())
    )
    part = share(made.bytes / made.plain_bytes, decimals=1)
    return f"packed: {size(made.bytes)}, {part} of {size(made.plain_bytes)}; {layers}, the rest as it was"


def _show_onnx(run: Path, target: Path, made: OnnxExport, *, json: bool) -> None:
    if json:
        result_json({"run": str(run), "out": str(target), "format": "onnx", **asdict(made)})
        return
    kind = "fp32" if made.calibrated_on is None else "INT8"
    set_by = (
        "" if made.calibrated_on is None else f", set by {made.calibrated_on:,} training images"
    )
    result(f"onnx: {size(made.bytes)} in {kind}{set_by}; the weights had {size(made.model_bytes)}")
    right = (
        ""
        if made.top1 is None
        else f"; {share(made.top1)} right, the network {share(made.original_top1)}"
    )
    result(
        f"held out: the network's class for {share(made.agreement)} of {counted(made.images, 'image')}{right}"
    )
    beside = (
        f", in fp32 {milliseconds(made.fp32_latency_ms)}" if made.calibrated_on is not None else ""
    )
    result(
        f"one image: {milliseconds(made.latency_ms)}{beside}, in torch "
        f"{milliseconds(made.original_latency_ms)}, on this CPU"
    )
    exactly(str(target))
