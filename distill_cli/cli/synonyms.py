"""Names of verbs and options in other tools, answered with the right one."""

from __future__ import annotations

import re
from typing import Any

from distill_cli.errors import sentences

VERBS = {
    "train": "Use `distill teacher train` or `distill student`.",
    "train-teacher": "Use `distill teacher train`.",
    "train-student": "Use `distill student`.",
    "distill": "Use `distill student --teachers RUN`.",
    "dump": "Use `distill cache-soft-labels`.",
    "cache-labels": "Use `distill cache-soft-labels`.",
    "eval": "Use `distill evaluate`.",
    "test": "Use `distill evaluate`.",
    "infer": "Use `distill predict`.",
    "help": "Use `distill --help`, or --help behind a command.",
    "list": "Use `distill methods` or `distill recipes list`.",
}

OPTIONS = {
    "--lambda": "Here it is --alpha, the weight of the soft term.",
    "--kd-weight": "Here it is --alpha, the weight of the soft term.",
    "--soft-weight": "Here it is --alpha.",
    "--hard-weight": "Here it is 1 − --alpha.",
    "--tau": "Here it is --temperature.",
    "--teacher": "Here it is --teachers.",
    "--arch": "Here it is --model.",
    "--network": "Here it is --model.",
    "--dataset": "Here it is --data.",
    "--data-dir": "Here it is --data.",
    "--output": "Here it is --out.",
    "--output-dir": "Here it is --out.",
    "--learning-rate": "Here it is --lr.",
    "--optimizer": "Here it is --opt.",
    "--scheduler": "Here it is --sched.",
    "--wd": "Here it is --weight-decay.",
    "--bs": "Here it is --batch-size.",
    "--num-epochs": "Here it is --epochs.",
    "--loss": "Here it is --objective.",
    "--method": "Here it is --objective.",
    "--smoothing": "Here it is --label-smoothing.",
    "--num-workers": "Here it is --workers.",
    "--amp": "Here it is --precision bf16 (or fp16); auto, the default, takes it where it helps.",
    "--fp16": "Here it is --precision fp16.",
    "--bf16": "Here it is --precision bf16.",
    "--grad-accum-steps": "Here it is --accumulate.",
    "--model-ema": "Here it is --ema, with its decay, as --ema 0.999.",
    "--torchcompile": "Here it is --compile.",
    "--aa": "Here it is --augment, as --augment rrc,flip,timm/rand-m9-mstd0.5.",
    "--mixup": "Here it is --augment, as --augment light,mixup:0.2.",
    "--cutmix": "Here it is --augment, as --augment light,cutmix.",
    "--gpu": "Here it is --device cuda.",
    "--config": "Here it is --recipe.",
    "--force": "A folder that holds a run is replaced by --overwrite.",
}
NO_TEMPERATURE = "Not needed: a cache serves every temperature; give -T to `distill student`."
ALL_IMAGES = (
    "Not needed: a cache is of all images, whatever a student may know of their labels; give it to "
    "`distill student`."
)
TEST_IMAGES = "A dump labels test images where --unlabelled names their folder."
NO_SUBCOMMAND = "`distill student` takes no sub-command: leave 'train' out."

_OPTION = re.compile(r"[Nn]o such option: (\S+)")


def _is_of_labels(option: str) -> bool:
    """Whether an option is one of what a training may know of labels."""
    from distill_cli.recipe.label_options import LabelOptions

    return option.removeprefix("--").replace("-", "_") in LabelOptions.model_fields


def explain(error: Any, verb: str | None) -> str:
    """A command-line error in one line, with the right name where another tool's was typed."""
    text = str(error.format_message() if hasattr(error, "format_message") else error)
    # Some versions of the library put the kind of their own exception before its message.
    text = " ".join(text.split()).replace("Value error, ", "")
    match = _OPTION.search(text)
    option = match[1].rstrip(".,") if match else ""
    if verb == "cache-soft-labels" and option in ("-T", "--temperature"):
        return f"{option} here? {NO_TEMPERATURE}"
    if verb == "cache-soft-labels" and _is_of_labels(option):
        return f"{option} here? {TEST_IMAGES if option == '--transductive' else ALL_IMAGES}"
    if option in OPTIONS:
        return f"no such option: {option}. {OPTIONS[option]}"
    if verb == "student" and "(train)" in text:
        return NO_SUBCOMMAND
    text = text[:1].lower() + text[1:]
    return sentences(text, f"See `distill {verb or ''} --help`".replace("  ", " "))
