"""README.md of a soft-label cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from distill_cli.errors import counted
from distill_cli.report.format import NOTHING, markdown, markdown_code, share, short_name

LISTED_CLASSES = 20


def cache_card(manifest: Mapping[str, Any], *, data: str, licence: str | None = None) -> str:
    """README.md of a soft-label cache that is shared as a dataset; Markdown with a YAML head.

    Args:
        manifest: manifest.json.
        data: Name of the images; the last part of a path.
        licence: Name of the licence, for the head.
    """
    teacher, spec = manifest["teacher"], manifest["view_spec"]
    dataset, classes = manifest["dataset"], manifest["classes"]
    head = {
        "license": licence or "unknown",
        "task_categories": ["image-classification"],
        "tags": ["knowledge-distillation", "soft-labels", "distill"],
    }
    augment = ", ".join(spec["augment"]) or "none"
    mixes = any(step.split(":")[0] in ("mixup", "cutmix") for step in spec["augment"])
    table = [
        (
            "images",
            f"{markdown_code(short_name(data))}, train split, {counted(dataset['samples'], 'sample')}",
        ),
        ("classes", f"{len(classes):,}: {_classes(classes)}"),
        ("views of each", f"{spec['views']:,}"),
        (
            "view",
            f"{spec['channels']} × {spec['height']} × {spec['width']}, {markdown_code(augment)}",
        ),
        (
            "teacher",
            f"{markdown_code(teacher['architecture'])}, weights {markdown_code(teacher['fingerprint'])}",
        ),
        ("labelled views", f"{manifest['labelled']:,}"),
        ("teacher right on those", share(manifest["teacher_accuracy"])),
        ("its NLL, nats", nats(manifest["teacher_nll"])),
        ("its expected calibration error", share(manifest["teacher_ece"])),
        ("mean entropy of a label, nats", f"{manifest['entropy']:.4f}"),
        ("codec", markdown_code(manifest["codec"])),
    ]
    lost = manifest["truncation_error"]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False).rstrip(),
            "---",
            "",
            f"# Soft labels of {markdown(teacher['architecture'])} on {markdown(short_name(data))}",
            "",
            "What a frozen teacher says of every view of every training image, stored once, for "
            "students to learn from. The images are not in here.",
            "",
            *["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in table)],
            "",
            "## What the codec lost",
            "",
            "KL(full ‖ stored) over all views, nats.",
            "",
            *["| temperature | mean | worst |", "|---|---|---|"],
            *(f"| {t} | {e['mean_kl']:.3g} | {e['worst_kl']:.3g} |" for t, e in lost.items()),
            "",
            "## Use",
            "",
            "With the same images at hand:",
            "",
            "```sh",
            "distill cache verify THIS_FOLDER",
            "distill student --teachers THIS_FOLDER --data IMAGES",
            "```",
            "",
            *_ids(manifest),
            "The student sees the very views that the teacher saw: they are functions of the "
            "sample, the view and a seed, and are made again. Images that differ from those "
            f"(fingerprint {markdown_code(dataset['fingerprint'])}) are refused."
            + (
                " Its held-out rows are bound to the split, because views are mixed in pairs."
                if mixes
                else ""
            ),
            "",
        ]
    )


def _ids(manifest: Mapping[str, Any]) -> list[str]:
    if not manifest.get("ids_sha256"):
        return []
    return ["`ids.safetensors` names the image of each row, for other readers.", ""]


def nats(number: float | None) -> str:
    """Four decimals, or a dash."""
    return NOTHING if number is None else f"{number:.4f}"


def _classes(names: Sequence[str]) -> str:
    listed = ", ".join(markdown(name) for name in names[:LISTED_CLASSES])
    return listed + (", …" if len(names) > LISTED_CLASSES else "")
