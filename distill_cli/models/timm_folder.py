"""config.json as timm's `save_for_hf` writes it, read as one of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_cli.errors import ArtifactError
from distill_cli.readers.json_values import read_json
from distill_cli.types import Framing

OURS = "distill"
# Outputs of a network, each of which is given a name.
MOST_OUTPUTS = 1_000_000
INPUT = ("input_size", "mean", "std")


def read_config(
    file: Path, version: int, class_names: Sequence[str] | None = None
) -> Mapping[str, Any]:
    """A config.json of ours as it is; timm's with what ours has and timm's lacks.

    The normalisation and the input size are those of timm's `pretrained_cfg`; its crop and
    interpolation are not: images are resized as for any teacher.

    Args:
        file: The config.json.
        version: Version of our format.
        class_names: Names of the classes where timm's config has none, and as many outputs; else
            they are called "output 0", "output 1", ….

    Raises:
        ArtifactError: It is no JSON, or the config of another library.
        Exception: Any kind, where the config is malformed.
    """
    config = read_json(file)
    if OURS in config:
        return dict(config)
    if "model_type" in config or "pretrained_cfg" not in config:
        kind = "is neither distill's nor timm's"
        if "model_type" in config:
            kind = f"is of Hugging Face transformers ({config['model_type']})"
        raise ArtifactError(
            f"{file} {kind}",
            hint="Give a run, or a folder that timm's save_for_hf wrote; labels of any other network "
            "can be brought in with `distill cache import`",
        )
    pretrained, outputs = config["pretrained_cfg"] or {}, config.get("num_classes")
    if lacking := [key for key in INPUT if key not in pretrained]:
        raise ValueError(f"its pretrained_cfg has no {lacking[0]}")
    if type(outputs) is not int or not 0 < outputs <= MOST_OUTPUTS:
        raise ValueError(f"num_classes is a whole number, {MOST_OUTPUTS:,} at most")
    args = {
        key: value for key, value in config.get("model_args", {}).items() if key != "num_classes"
    }
    channels = pretrained["input_size"][0]
    return {
        "architecture": config.get("architecture"),
        "model_args": args if channels == 3 else {"in_chans": channels, **args},
        OURS: {
            "format_version": version,
            "library": "timm",
            "class_names": _names(config, outputs, class_names),
            **{key: pretrained[key] for key in INPUT},
            # Nobody saved it before framings were written down: pictures are framed as today's are.
            "view": {
                **dict(zip(("channels", "height", "width"), pretrained["input_size"], strict=True)),
                **Framing(resize="floor", orientation="exif", background="white").to_json(),
            },
        },
    }


def _names(config: Mapping[str, Any], outputs: int, data: Sequence[str] | None) -> list[str]:
    names = config.get("label_names") or (config["pretrained_cfg"] or {}).get("label_names")
    if isinstance(names, Mapping):
        names = [names.get(str(output)) for output in range(outputs)]
    if isinstance(names, list) and len(names) == outputs and None not in names:
        return list(map(str, names))
    if data is not None and len(data) == outputs:
        return list(data)
    return [f"output {output}" for output in range(outputs)]
