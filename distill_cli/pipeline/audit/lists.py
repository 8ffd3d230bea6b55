"""The files of an audit: lists that trainings read, figures, and a page with pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from distill_cli.data.split_images import Images, to_pictures
from distill_cli.files import csv_text, one_writer, remove, write_json, write_text
from distill_cli.pipeline.audit.audit import Audit
from distill_cli.pipeline.entries import AUDIT_LISTS, AUDIT_PAGE, AUDIT_SUMMARY
from distill_cli.report.audit_page import Card, Section, audit_page
from distill_cli.report.format import short_name

COLUMNS = (
    *("sample_id", "split", "kind", "label", "suggested", "margin", "confidence", "votes"),
    *("disagreement", "partner", "partner_split", "similarity"),
)
KINDS = ("mislabelled", "duplicate", "hard")
# Pictures of a kind on the page, and the largest side of each; up to which side a picture is kept exactly.
SHOWN, SIDE, EXACT = 48, 96, 32


def lists_of(audit: Audit) -> dict[str, list[list[str]]]:
    """The rows of each list by its file; audit.csv has those that may be left out, each once."""
    judged, duplicates = audit.judged, sorted(audit.duplicates)
    wrong = set(judged.mislabelled)
    both = [
        *((row, "mislabelled") for row in judged.mislabelled),
        *((row, "duplicate") for row in duplicates if row not in wrong),
    ]
    rows = (
        both,
        [(row, "mislabelled") for row in judged.mislabelled],
        [(row, "duplicate") for row in duplicates],
        [(row, "hard") for row in judged.hard],
    )
    return {
        name: [_cells(audit, row, kind) for row, kind in listed]
        for name, listed in zip(AUDIT_LISTS, rows, strict=True)
    }


def _cells(audit: Audit, row: int, kind: str) -> list[str]:
    """One row of a list, in the order of `COLUMNS`; what does not apply is empty."""
    rows, judged, names = audit.rows, audit.judged, audit.class_names
    label = int(rows.label_N[row])
    scores = ("", "", "")
    if label >= 0:
        scores = (
            f"{float(judged.margin_N[row]):.6f}",
            f"{float(judged.confidence_N[row]):.6f}",
            str(int(judged.votes_N[row])),
        )
    partner = audit.duplicates.get(row)
    return [
        *(rows.sample_ids[row], rows.parts[row].split, kind, names[label] if label >= 0 else ""),
        names[_suggested(audit, row)] if kind == "mislabelled" else "",
        *scores,
        f"{float(rows.answers.disagreement_N[row]):.6f}",
        *(
            ("", "", "")
            if partner is None
            else (partner.sample, partner.part.split, f"{partner.similarity:.6f}")
        ),
    ]


def _suggested(audit: Audit, row: int) -> int:
    """The likeliest class that is not the label."""
    probs_K = audit.rows.answers.mean_NK[row].clone()
    probs_K[int(audit.rows.label_N[row])] = -1
    return int(probs_K.argmax())


def summary_of(audit: Audit, run: str) -> dict[str, Any]:
    """The figures of audit.json."""
    judged, parts = audit.judged, audit.rows.parts
    kinds = {
        "mislabelled": judged.mislabelled,
        "duplicate": tuple(audit.duplicates),
        "hard": judged.hard,
    }
    pairs: dict[str, int] = {}
    for row, duplicate in audit.duplicates.items():
        key = f"{parts[row].split} in {duplicate.part.split}"
        pairs[key] = pairs.get(key, 0) + 1
    return {
        "run": run,
        "judges": list(audit.judges),
        "in_sample": audit.in_sample,
        "images": len(parts),
        "labelled": judged.labelled,
        "confidently_others": judged.suspected,
        **{kind: len(rows) for kind, rows in kinds.items()},
        "held_out": {
            kind: sum(parts[row].split == "val" for row in rows) for kind, rows in kinds.items()
        },
        "equal": sum(duplicate.equal for duplicate in audit.duplicates.values()),
        "pairs": dict(sorted(pairs.items())),
        "test_in_test": audit.in_test,
    }


def write_audit(audit: Audit, out: Path, run: str) -> dict[str, Any]:
    """Writes the lists, the page and, last, the figures, which are returned.

    Raises:
        UsageError: They cannot be written.
    """
    summary = summary_of(audit, run)
    with one_writer(out):
        remove(out / AUDIT_SUMMARY)
        for name, rows in lists_of(audit).items():
            write_text(out / name, csv_text([COLUMNS, *rows]))
        write_text(out / AUDIT_PAGE, _page(audit, summary))
        write_json(out / AUDIT_SUMMARY, summary)
    return summary


def _page(audit: Audit, summary: dict[str, Any]) -> str:
    judged = audit.judged
    sections = (
        Section(
            kind="mislabelled",
            total=len(judged.mislabelled),
            cards=[_judged_card(audit, row, other=True) for row in judged.mislabelled[:SHOWN]],
        ),
        Section(
            kind="duplicate",
            total=len(audit.duplicates),
            cards=[_pair(audit, row) for row in _telling(audit)[:SHOWN]],
        ),
        Section(
            kind="hard",
            total=len(judged.hard),
            cards=[_judged_card(audit, row, other=False) for row in judged.hard[:SHOWN]],
        ),
    )
    judges = [short_name(name) for name in audit.judges]
    return audit_page({**summary, "judges": judges, "run": short_name(summary["run"])}, sections)


def _telling(audit: Audit) -> list[int]:
    """Duplicates, those in other splits first, then the most alike."""
    parts = audit.rows.parts

    def order(row: int) -> tuple[bool, float, int]:
        duplicate = audit.duplicates[row]
        return duplicate.part.split == parts[row].split, -duplicate.similarity, row

    return sorted(audit.duplicates, key=order)


def _judged_card(audit: Audit, row: int, *, other: bool) -> Card:
    names, rows, judged = audit.class_names, audit.rows, audit.judged
    label = names[int(rows.label_N[row])]
    likely = names[_suggested(audit, row)]
    probs_K = rows.answers.mean_NK[row]
    shares = float(probs_K[_suggested(audit, row)]), float(judged.confidence_N[row])
    other_share, own_share = (f"{100 * share:.1f}\u00a0%" for share in shares)
    lines = [f"{likely} {other_share}, label {own_share}"]
    if len(audit.judges) > 1:
        lines.append(f"{int(judged.votes_N[row])} of {len(audit.judges)} against the label")
    return Card(
        pictures=(_picture(rows.images([row])[0]),),
        title=f"{label} → {likely}" if other else label,
        lines=(*lines, _place(audit, row)),
    )


def _place(audit: Audit, row: int) -> str:
    return f"{audit.rows.parts[row].split}: {audit.rows.sample_ids[row]}"


def _pair(audit: Audit, row: int) -> Card:
    """Both images of a pair; the second one stays. A label of test is not shown."""
    rows, duplicate = audit.rows, audit.duplicates[row]
    partner = duplicate.part
    images = partner.images.take(rows.place_N.new_tensor([duplicate.number]))
    title = "equal" if duplicate.equal else f"correlation {duplicate.similarity:.3f}"
    if partner.split != "test":
        labels = int(rows.label_N[row]), int(partner.images.label_N[duplicate.number])
        if labels[0] != labels[1] and min(labels) >= 0:
            title += f", labels {audit.class_names[labels[0]]} and {audit.class_names[labels[1]]}"
    return Card(
        pictures=(_picture(rows.images([row])[0]), _picture(images)),
        title=title,
        lines=(_place(audit, row), f"stays, {partner.split}: {duplicate.sample}"),
    )


def _picture(images: Images) -> str:
    """One image as a data URI: small ones exactly, large ones reduced."""
    picture = to_pictures(next(iter(images.iter_plain())))[0]
    exact = max(picture.size) <= EXACT
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    if exact:
        picture.save(content, "PNG")
    else:
        picture.save(content, "JPEG", quality=85)
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
