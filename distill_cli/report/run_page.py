"""The page of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_cli.errors import counted
from distill_cli.report.format import NOTHING, count, milliseconds, plain, share, short_name, size
from distill_cli.report.groups import objective_of, role_of, values_of
from distill_cli.report.html import _render
from distill_cli.report.labels import NOTHING_HELD_OUT, known_labels
from distill_cli.report.rounds import SEEN, cells_of, columns_of, read_rounds
from distill_cli.report.row import bits_of
from distill_cli.report.run_folder import RunSummary
from distill_cli.report.run_plots import of_run
from distill_cli.types import RunResult
from distill_cli.types.relation import is_number

NOT_SHOWN = {"recorded", "out", "command", "about"}
# Keys that stand beside the heading of the recipe, which is folded.
GIST = ("epochs", "batch_size", "opt", "lr", "augment")
TEACHER_COLUMNS = {
    "model": "network",
    "accuracy": "test accuracy",
    "params": "parameters",
}


def run_page(run: RunSummary) -> str:
    """The page of one run: figures, learning curves, recipe, teachers, environment.

    An unfinished run gets a page too, with what there is. No path of any machine is shown.
    """
    recipe, recorded = run.recipe, run.recorded
    model, data = short_name(str(recipe.get("model"))), short_name(str(recipe.get("data")))
    return _render(
        "run.html.j2",
        title=f"{model} on {data}",
        subtitle=f"{run.name} · {objective_of(recipe)} · seed {plain(recipe.get('seed'))}",
        finished=run.result is not None,
        shown=[] if run.result is None else [*_key_figures(run.result), *_labels(recorded)],
        pictures=of_run(run),
        **_rounds(run),
        teachers=_teachers(run),
        teacher_columns=TEACHER_COLUMNS,
        gist=_gist(recipe),
        mode=plain(recipe.get("mode")),
        recipe=_in_words({**_shown(recipe), "objective": values_of(recipe)}),
        data=_in_words(
            {
                **_mapping(recorded.get("dataset")),
                **known_labels(recorded),
                **_test_images(recorded),
            }
        ),
        environment=_environment(recorded),
    )


def _rounds(run: RunSummary) -> dict[str, Any]:
    """The rounds of a self-training; none of another run."""
    table = read_rounds(run.folder)
    if table is None:
        return {"rounds": [], "round_columns": (), "seen": ""}
    return {
        "rounds": [cells_of(row) for row in table.rounds],
        "round_columns": columns_of(table)[1:],
        "seen": SEEN if table.transductive else "",
    }


def _shown(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key not in NOT_SHOWN}


def _key_figures(result: RunResult) -> list[tuple[str, str, str]]:
    """(name, value, what stands below it)."""
    shown = [
        ("test errors", str(result.test_errors), f"of {counted(result.test_samples, 'image')}"),
        ("test accuracy", share(result.test_top1), _held_out(result)),
        ("calibration error", share(result.test_ece, decimals=1), f"NLL {result.test_nll:.3f}"),
        ("parameters", count(result.params), f"{size(result.model_bytes)} of weights"),
        ("one image", milliseconds(result.latency_ms), ""),
        (
            "training speed",
            count(result.images_per_second),
            f"images/s, {result.seconds:.0f} s in all",
        ),
    ]
    if result.weight_bits is not None or result.act_bits is not None:
        packed = "" if result.packed_bytes is None else f"{size(result.packed_bytes)} packed"
        shown.insert(4, ("bits", bits_of(result.weight_bits, result.act_bits), packed))
    nll_scaled, ece_scaled = result.test_nll_scaled, result.test_ece_scaled
    if result.scaled and nll_scaled is not None and ece_scaled is not None:
        below = f"NLL {nll_scaled:.3f}, T {result.temperature:.2f} fitted held out"
        scaled = share(ece_scaled, decimals=1)
        shown.insert(3, ("calibration error, logits scaled", scaled, below))
    if result.test_map is not None:
        f1 = "" if result.test_f1 is None else f"F1 {share(result.test_f1)}"
        shown.insert(2, ("mAP", share(result.test_map), f1))
    if result.teacher_agreement is not None:
        agreed = share(result.teacher_agreement, decimals=1)
        kl = "" if result.teacher_kl is None else f", KL {result.teacher_kl:.3f}"
        if result.val_teacher_kl is not None:
            kl += f", held-out KL {result.val_teacher_kl:.3f}"
        shown.append(("agreement", agreed, f"with its teachers{kl}"))
    for peer in result.peers:
        below = f"{peer.test_errors:,} test errors, {count(peer.params)} parameters"
        shown.append((f"trained along: {peer.name}", share(peer.test_top1), below))
    return shown


def _labels(recorded: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """How many labels the run knew, where some were hidden."""
    labels = _mapping(recorded.get("labels"))
    known, images, held_out = (labels.get(key) for key in ("known", "images", "held_out"))
    if not (type(known) is type(images) is type(held_out) is int) or not labels.get("hidden"):
        return []
    listed = labels.get("newly_known")
    by_list = f"; {listed:,} by a list" if type(listed) is int and listed else ""
    return [
        ("labels known", f"{known:,}", f"of {images:,}, {held_out:,} of them held out{by_list}")
    ]


def _held_out(result: RunResult) -> str:
    """What stands below the test accuracy."""
    if result.val_top1 is None:
        return f"{NOTHING_HELD_OUT}: epoch {result.best_epoch} is the last"
    if result.test_coarse_top1 is None:
        return f"held-out {share(result.val_top1)}"
    return f"of groups {share(result.test_coarse_top1)}, held-out {share(result.val_top1)}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _in_words(values: Mapping[str, Any]) -> dict[str, str]:
    """The values that are set, in words; an option that is off or open is left out."""
    return {
        key: plain(value)
        for key, value in values.items()
        if value is not None and value is not False and value not in ([], {}, "")
    }


def _environment(recorded: Mapping[str, Any]) -> dict[str, str]:
    elsewhere = {
        "dataset",
        "labels",
        "test",
        "teachers",
        "teacher_networks",
        "versions",
        "view_spec",
        "teacher_view_spec",
        "asked",
    }
    others = {key: value for key, value in recorded.items() if key not in elsewhere}
    views = {
        f"{name} {key}": value
        for name, spec in (("view", "view_spec"), ("teacher view", "teacher_view_spec"))
        for key, value in _mapping(recorded.get(spec)).items()
    }
    return _in_words({**others, **views, **_mapping(recorded.get("versions"))})


def _test_images(recorded: Mapping[str, Any]) -> dict[str, Any]:
    return {f"test {key}": value for key, value in _mapping(recorded.get("test")).items()}


def _gist(recipe: Mapping[str, Any]) -> str:
    """`epochs 30 · batch size 128 · opt sgd · lr 0.1`: what most people look for in a recipe."""
    return " · ".join(
        f"{key.replace('_', ' ')} {plain(recipe[key])}" for key in GIST if recipe.get(key)
    )


def _teachers(run: RunSummary) -> list[dict[str, str]]:
    """Name, fingerprint, architecture, test accuracy and parameters of each, as far as noted."""
    if role_of(run.recipe) == "teacher":
        return []
    teachers = []
    for index, name in enumerate(run.recipe["teachers"]):
        network = _mapping(_item(run.recorded.get("teacher_networks"), index))
        accuracy, params = (
            value if is_number(value) else None
            for value in (network.get("test_top1"), network.get("params"))
        )
        teachers.append(
            {
                "name": short_name(str(name)),
                "fingerprint": plain(_item(run.recorded.get("teachers"), index)),
                "model": plain(network.get("model")),
                "accuracy": share(accuracy),
                "params": NOTHING if params is None else count(params),
            }
        )
    return teachers


def _item(values: Any, index: int) -> Any:
    """An item of a list; None where there is none."""
    return values[index] if isinstance(values, list) and index < len(values) else None
