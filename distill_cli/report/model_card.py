"""MODEL_CARD.md of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_cli.errors import counted
from distill_cli.report.format import (
    count,
    markdown,
    markdown_code,
    milliseconds,
    plain,
    share,
    short_name,
    size,
)
from distill_cli.report.groups import objective_of, role_of
from distill_cli.report.labels import NOTHING_HELD_OUT, epoch_name, known_labels
from distill_cli.report.row import bits_of
from distill_cli.types import FRAMINGS, RunResult

TRAINING_KEYS = (
    *("epochs", "batch_size", "opt", "lr", "sched", "warmup_epochs", "weight_decay"),
    *("augment", "dropout", "pretrained", "seed"),
)
LISTED_CLASSES = 20


def model_card(recipe: Mapping[str, Any], result: RunResult, config: Mapping[str, Any]) -> str:
    """Model, data, training, figures, use and limits of a run; Markdown.

    Args:
        recipe: Every key of recipe.yaml; paths in it are shown by their last part only.
        result: The run's figures.
        config: config.json of the model, for its input size, its classes and its library.
    """
    model, data = short_name(str(recipe.get("model"))), short_name(str(recipe.get("data")))
    taught = role_of(recipe) == "student"
    trained = "distilled from teachers" if taught else "trained on labels"
    sections = {
        "Model": _model(recipe, result, config),
        "Data": _data(recipe, config),
        "Training": _training(recipe),
        "Figures": _figures(recipe, result),
        "Use": _use(config, result),
        "Limits": _limits(recipe, result),
    }
    lines = [f"# {markdown(model)} on {markdown(data)}", ""]
    lines += [f"An image classifier of {count(result.params)} parameters, {trained}.", ""]
    for title, body in sections.items():
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _model(recipe: Mapping[str, Any], result: RunResult, config: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- architecture: {markdown_code(config.get('architecture') or recipe.get('model'))}",
        f"- {counted(result.params, 'parameter')}, {size(result.model_bytes)} of weights (safetensors)",
    ]
    if result.weight_bits is not None or result.act_bits is not None:
        bits = bits_of(result.weight_bits, result.act_bits)
        by = " with `distill export --format packed`"
        packed = "" if result.packed_bytes is None else f"; {size(result.packed_bytes)}{by}"
        lines.append(f"- bits of a weight: {bits}{packed}")
    shape = (config.get("pretrained_cfg") or {}).get("input_size")
    if shape:
        lines.append(f"- takes {' × '.join(str(n) for n in shape)} (channels, height, width)")
    view = (config.get("distill") or {}).get("view")
    if view:
        sides = " × ".join(str(view[key]) for key in ("channels", "height", "width"))
        others = [f"{key}: {value}" for key, value in view.items() if key in FRAMINGS]
        lines.append(f"- pictures become {sides} first ({', '.join(others) or 'as before 0.4.0'})")
    return lines


def _data(recipe: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    recorded = recipe.get("recorded") or {}
    dataset, known = recorded.get("dataset") or {}, known_labels(recorded)
    names = config.get("label_names") or dataset.get("class_names") or []
    lines = [f"- data: {markdown_code(recipe.get('data'))}"]
    if dataset.get("samples") and known:
        lines.append(
            f"- {counted(dataset['samples'], 'training image')} (split seed "
            f"{plain(dataset.get('split_seed'))}), of whose labels not all are known as they are:"
        )
        lines += [f"- {name}: {markdown(value)}" for name, value in known.items()]
    elif dataset.get("samples"):
        lines.append(
            f"- {counted(dataset['samples'], 'training image')}, of which a share of "
            f"{plain(dataset.get('val_fraction'))} was held out to choose the epoch "
            f"(split seed {plain(dataset.get('split_seed'))})"
        )
    if dataset.get("fingerprint"):
        lines.append(f"- fingerprint: {markdown_code(dataset['fingerprint'])}")
    if names:
        more = ", …" if len(names) > LISTED_CLASSES else ""
        listed = ", ".join(markdown_code(str(name)) for name in names[:LISTED_CLASSES])
        lines.append(f"- {counted(len(names), 'class', 'classes')}: {listed}{more}")
    return lines


def _training(recipe: Mapping[str, Any]) -> list[str]:
    lines = [f"- objective: {markdown_code(objective_of(recipe))}"]
    if role_of(recipe) == "student":
        teachers = ", ".join(markdown_code(name) for name in recipe["teachers"])
        lines.append(
            f"- teachers: {teachers}, mode {markdown_code(recipe.get('mode') or 'default')}"
        )
        lines.append("- T is the temperature, α the weight of the teachers' soft labels")
    lines += [
        f"- {key}: {markdown(recipe[key])}"
        for key in TRAINING_KEYS
        if recipe.get(key) not in (None, [])
    ]
    if recipe.get("targets") == "sigmoid":
        lines.insert(1, "- targets: sigmoid, each label by itself, yes or no")
    version = ((recipe.get("recorded") or {}).get("versions") or {}).get("distill-cli")
    return [*lines, f"- made by distill-cli {markdown(version)}"] if version else lines


def _figures(recipe: Mapping[str, Any], result: RunResult) -> list[str]:
    rows = {
        "test errors": f"{result.test_errors} of {result.test_samples}",
        "test accuracy": share(result.test_top1),
        "test NLL": f"{result.test_nll:.4f} nats",
        "test ECE, 15 bins": share(result.test_ece),
        "held-out accuracy": NOTHING_HELD_OUT
        if result.val_top1 is None
        else share(result.val_top1),
        epoch_name(result): f"{result.best_epoch} of {markdown(recipe.get('epochs'))}",
        "one image": milliseconds(result.latency_ms),
    }
    if result.scaled and result.test_ece_scaled is not None:
        rows["temperature, fitted held-out"] = f"{result.temperature:.2f}"
        rows["test NLL at it"] = f"{result.test_nll_scaled:.4f} nats"
        rows["test ECE at it"] = share(result.test_ece_scaled)
    if result.test_coarse_top1 is not None:
        rows["test accuracy, groups"] = share(result.test_coarse_top1)
        rows["held-out accuracy, groups"] = rows.pop("held-out accuracy")
    if result.test_map is not None:
        rows["test mean average precision"] = share(result.test_map)
    if result.test_f1 is not None:
        rows["test F1, all labels"] = share(result.test_f1)
    if result.test_macro_f1 is not None:
        rows["test F1, mean over labels"] = share(result.test_macro_f1)
    if result.teacher_agreement is not None:
        rows["agrees with its teachers"] = share(result.teacher_agreement, decimals=1)
    if result.teacher_kl is not None:
        rows["KL(teachers ‖ student)"] = f"{result.teacher_kl:.4f} nats"
    if result.val_teacher_kl is not None:
        rows["KL(teachers ‖ student), held out"] = f"{result.val_teacher_kl:.4f} nats"
    return ["| figure | value |", "|---|---|", *(f"| {key} | {rows[key]} |" for key in rows)]


def _use(config: Mapping[str, Any], result: RunResult) -> list[str]:
    library = (config.get("distill") or {}).get("library")
    unscaled = "σ(logits)" if result.test_map is not None else "softmax(logits)"
    stored = ", by the temperature that is stored in model/config.json"
    answer = f"softmax(logits/{result.temperature:.2f}){stored}" if result.scaled else unscaled
    lines = [
        *("```sh", "distill predict RUN image.png", "```", ""),
        f"The probabilities are {answer}; with `-T 4` the logits are divided by 4 instead, as in the "
        "soft label that a student learns from at T = 4.",
    ]
    if library == "torchvision":
        return [
            *lines,
            "",
            "RUN is this folder; the network is torchvision's, so timm cannot load it.",
        ]
    return [
        *lines,
        "",
        "```python",
        "import timm",
        "import distill_cli.models  # only for distill's own networks",
        "",
        'model = timm.create_model("local-dir:RUN/model", pretrained=True).eval()',
        "```",
        "",
        "RUN is this folder; timm gives logits. model/README.md says how a picture becomes what the "
        "network takes.",
    ]


def _limits(recipe: Mapping[str, Any], result: RunResult) -> list[str]:
    seen = (
        "- Transductive: the network learnt from the test images, without their labels. Its test figures are "
        "not of unseen images."
    )
    return [
        *([seen] if recipe.get("transductive") else []),
        *(f"- Warning: {markdown(warning)}" for warning in result.warnings),
        f"- The figures are of one seed and one test set of {counted(result.test_samples, 'image')}, looked "
        "at once; another seed gives somewhat other ones.",
        "- It knows no class but those above"
        + (
            " and answers every image with one of them."
            if result.test_map is None
            else "; each has a probability by itself, so that several or none may apply."
        ),
        "- Images unlike its training data (another camera, size or framing) were not tested.",
        "- Times are of the machine and device that it was trained on.",
    ]
