"""The readers of `tests/mutated.py`: what each of them reads, and a valid example of it."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distill_cli.cache.eval_rows import read_evaluation
from distill_cli.cache.manifest import read_plan
from distill_cli.cache.safetensors_header import read_header
from distill_cli.cache.sample_ids import read_ids
from distill_cli.cache.shards import Shards
from distill_cli.cli.cache_info import described, sketched
from distill_cli.data.archives import open_files
from distill_cli.data.csv_source import listed_splits
from distill_cli.data.digest_memory import Digests
from distill_cli.data.disk_cache import Key, recall, remember
from distill_cli.data.formats import open_image
from distill_cli.data.label_classes import groups_of_classes
from distill_cli.data.label_files import read_hierarchy, read_relabelling
from distill_cli.data.pillow_io import BAD_IMAGE, reason_of, to_pixels
from distill_cli.data.reading import read_images
from distill_cli.data.rules import TODAY
from distill_cli.models import load_model
from distill_cli.models.artifact import save_model
from distill_cli.models.build import build
from distill_cli.models.network import InputSpec, Network
from distill_cli.pipeline.inputs.class_groups import groups_of, rule_of
from distill_cli.pipeline.inputs.class_maps import columns_of
from distill_cli.pipeline.inputs.data_rules import rules_kept
from distill_cli.pipeline.inputs.noise_matrix import read_noise
from distill_cli.pipeline.kept import kept_recipe
from distill_cli.pipeline.labels.label_files import read_label_file
from distill_cli.recipe.load import load, to_yaml
from distill_cli.recipe.schema import StudentRecipe
from distill_cli.report.run_folder import read_run
from distill_cli.training import checkpoint
from distill_cli.training.state import State
from distill_cli.types import EARLIER_FRAMING, PSEUDO_LABELS, PseudoLabelCounts
from tests.cache.examples import dump
from tests.mutated import Reader
from tests.report.made import make as make_run

CLASSES = ("cat", "dog", "frog")
SAVED = ("png", "jpg", "bmp", "tiff", "webp", "ppm", "tga", "ico", "avif", "jp2")
PICTURES = (*(f"a.{suffix}" for suffix in SAVED), "a.gif", "packed.tiff")


def _text(name: str, *lines: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("\n".join(lines) + "\n")


def _recipe(folder: Path) -> None:
    recipe = StudentRecipe(
        command="student",
        teachers=["runs/a", "runs/b"],
        objective=[{"name": "kd", "temperature": 4.0}, {"name": "ce", "weight": 0.1}],
        model_args={"width": 30},
        require=["test_top1>=0.97"],
        recorded={"versions": {"distill-cli": "0.4.0"}, "dataset": {"samples": 3}},
    )
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    (folder / "short.yaml").write_text(
        "command: student\nteachers: runs/a,runs/b\nbase: &a {epochs: 3}\n".replace(
            "base: &a", "model_args: &a"
        )
        + "sched_args: {<<: *a, power: 2}\nepochs: 3\nlr: 0.1\nsplit-seed: 7\naugment: [crop:4, flip]\n"
    )


def _pictures(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in CLASSES[:2]:
            (folder / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "data" / split / name / f"{number}.png")


def _archives(folder: Path) -> None:
    _pictures(folder)
    files = sorted((folder / "data").rglob("*.png"))
    with tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            tar.add(file, str(file.relative_to(folder / "data")))
    for suffix in ("gz", "bz2", "xz"):
        with tarfile.open(folder / f"a.tar.{suffix}", f"w:{suffix}") as tar:
            tar.add(folder / "data" / "train", "train")
    for name, kind in (
        ("stored", zipfile.ZIP_STORED),
        ("packed", zipfile.ZIP_DEFLATED),
        ("bz2", zipfile.ZIP_BZIP2),
    ):
        with zipfile.ZipFile(folder / f"{name}.zip", "w", kind) as archive:
            for file in files:
                archive.write(file, str(file.relative_to(folder / "data")))


def _told(error: Exception) -> None:
    """A bad image is named by whoever asks for it, with this reason."""
    assert len(reason_of(error).splitlines()) == 1


def _read_archives(folder: Path, file: str) -> None:
    files = open_files(folder / file)
    for number in range(len(files.paths)):
        try:
            to_pixels(open_image(files.read(number)), 8)
        except BAD_IMAGE as error:
            _told(error)


def _images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in SAVED:
        picture.save(
            folder / f"a.{suffix}", **({"exif": exif} if suffix in ("png", "jpg", "webp") else {})
        )
    picture.convert("P").save(folder / "a.gif", transparency=3)
    picture.save(folder / "packed.tiff", compression="tiff_lzw")


def _read_images(folder: Path, file: str) -> None:
    try:
        to_pixels(open_image((folder / file).read_bytes()), 8)
    except BAD_IMAGE as error:
        _told(error)


def _table(folder: Path) -> None:
    _pictures(folder)
    rows = [
        (str(p.relative_to(folder)), p.parent.name, p.parts[-3])
        for p in sorted(folder.rglob("*.png"))
    ]
    (folder / "a.csv").write_text(
        "file,label,split\n" + "".join(f"{','.join(row)}\n" for row in rows)
    )
    (folder / "b.csv").write_text(
        "file,labels\n" + "".join(f'"{file}",{label};x\n' for file, label, _ in rows)
    )
    (folder / "c.csv").write_text(
        "file,cat,dog\n" + "".join(f"{row[0]},1,{n % 2}\n" for n, row in enumerate(rows))
    )


def _labels(folder: Path) -> None:
    (folder / "a.csv").write_text("sample,cat,dog\nx/1.png,3,0\nx/2.png,1,2.5\n")
    values = np.array([[0.1, 0.9], [0.5, 0.5]])
    np.savez(
        folder / "a.npz", logits=values, samples=np.array(["x", "y"]), classes=np.array(["c", "d"])
    )
    np.savez_compressed(folder / "b.npz", votes=values)


def _model(folder: Path) -> None:
    spec = InputSpec(channels=1, height=4, width=4, mean=(0.5,), std=(0.25,))
    args = {
        "width": 6,
        "depth": 1,
        "img_size": 4,
        "in_chans": 1,
        "drop_rate": 0.1,
        "input_dropout": 0.0,
    }
    network = Network(
        build("distill_mlp", 3, args),
        architecture="distill_mlp",
        model_args=args,
        library="timm",
        class_names=CLASSES,
        input_spec=spec,
        temperature=1.5,
    )
    save_model(network, folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("checksum", None)
    config["distill"].pop("checksum", None)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    other = folder / "timm"
    other.mkdir()
    (other / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    del config["distill"]
    (other / "config.json").write_text(json.dumps(config, indent=1))


def _read_models(folder: Path, file: str) -> None:
    network = load_model((folder / file).parent)
    channels, height, width = network.input_size
    with torch.no_grad():
        network.train()(torch.zeros(1, channels, height, width))


def _cache(folder: Path) -> None:
    dump(folder)


def _read_plan(folder: Path, file: str) -> None:
    _read_cache(folder, file)
    assert read_plan(folder).digest


def _read_cache(folder: Path, file: str) -> None:
    list(sketched(described(folder), 80))


def _unfinished(folder: Path) -> None:
    dump(folder)
    (folder / "manifest.json").unlink()


def _read_files_of_cache(folder: Path, file: str) -> None:
    plan = read_plan(folder)
    shards = Shards(folder, plan)
    for shard in plan.shards():
        shards.statistics(shard)
        read_header(folder / shard.file)
    read_evaluation(folder / "eval.safetensors", plan)
    read_ids(folder / "ids.safetensors", plan)


def _remembered(folder: Path) -> None:
    _pictures(folder)
    os.environ["DISTILL_CACHE"] = str(folder)
    decoded = read_images(
        str(folder / "data"), 6, False, EARLIER_FRAMING, 0, lambda *_: None, False, TODAY
    )
    remember(Key("k"), decoded)  # type: ignore[arg-type]
    notes = Digests("d")
    notes.seen = {
        "a.png": [[1, 2, 3], ["00" * 16, 6, 6, False, True, None]],
        "b.png": [[1, 2, 3], "00" * 16],
    }
    notes.changed = True
    notes.save()
    notes.file.rename(folder / "digests.json")


def _read_remembered(folder: Path, file: str) -> None:
    os.environ["DISTILL_CACHE"] = str(folder)
    decoded = recall(Key("k"))
    if decoded is not None:
        # What is remembered is right, or it is nothing.
        assert [len(table.sample_ids) for table in decoded.tables.values()] == [6, 4]
    notes = Digests("d")
    notes.file.parent.mkdir(exist_ok=True)
    notes.file.write_bytes((folder / "digests.json").read_bytes())
    notes = Digests("d")
    for name in ("a.png", "b.png"):
        notes.get(name, (1, 2, 3))
        notes.content(name, (1, 2, 3))
    notes.note("c.png", (1, 2, 3), "x")


def _run(folder: Path) -> None:
    make_run(folder / "r")
    (folder / "r" / "relations.json").write_text(
        json.dumps(
            {
                "x": {
                    "class_names": ["a", "b"],
                    "share": [[0, 1], [0.5, 0]],
                    "pairs": [["a", "b", 0.75]],
                }
            }
        )
    )
    counts = PseudoLabelCounts(
        epoch=1, seen=9, accepted=5, known=4, right=3, classes={"a": 2, "b": 3}
    )
    (folder / "r" / PSEUDO_LABELS).write_text(2 * f"{json.dumps(counts.to_json())}\n")


def _trained() -> tuple[State, dict[str, checkpoint.Stateful]]:
    """What a run keeps after a step."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    state = State(step=1, best={"top1": 0.5}, best_rank=[0.5], rates=[3.5], log_lengths=(5, 7))
    state.tally.load_state_dict({"top1": 3.0, "loss": 0.25})
    state.growth.load_state_dict({"first": {"ce": 0.5}, "said": {"ce": "grown"}})
    return state, {"network": net, "optimizer": optimizer, "scaler": torch.amp.GradScaler("cpu")}


def _checkpoint(folder: Path) -> None:
    state, parts = _trained()
    checkpoint.save(folder, state, parts, "key")


def _read_checkpoint(folder: Path, file: str) -> None:
    """As --resume does, and the next step."""
    _, parts = _trained()
    kept = torch.get_rng_state()
    try:
        checkpoint.repair(folder)
        state = checkpoint.load(folder, parts, "key")
    finally:
        torch.set_rng_state(kept)
    if state.step:
        state.means()
    json.dumps(state.state_dict())
    parts["optimizer"].step()  # type: ignore[attr-defined]


def _read_kept(folder: Path, file: str) -> None:
    kept = kept_recipe(folder)
    rules_kept(kept)
    ((kept.get("recorded") or {}).get("dataset") or {}).get("fingerprint")


READERS = (
    Reader(
        "recipe",
        _recipe,
        ("recipe.yaml", "short.yaml"),
        lambda folder, file: load(StudentRecipe, recipe=folder / file, environment={}),
    ),
    Reader("checkpoint", _checkpoint, (checkpoint.FILE,), _read_checkpoint),
    Reader("kept", _recipe, ("recipe.yaml",), _read_kept),
    Reader(
        "class-map",
        _text("map.yaml", "cat: 0", "dog: Hund", '"frog": "2"', "? mouse", ": 3"),
        ("map.yaml",),
        lambda folder, file: columns_of(
            str(folder / "map.yaml"), "t", ["Katze", "Hund", "2", "3"], (*CLASSES, "mouse")
        ),
    ),
    Reader(
        "groups",
        _text("groups.yaml", "animals:", "  wet: [frog]", "  dry: &a", "  - cat", "  - dog"),
        ("groups.yaml",),
        lambda folder, file: groups_of(str(folder / "groups.yaml"), CLASSES),
    ),
    Reader(
        "matrix",
        _text("m.csv", ",cat,dog,frog", "cat,1,0.5,0", "dog,0,1e0,0", "frog,1,1,1"),
        ("m.csv",),
        lambda folder, file: rule_of(str(folder / "m.csv"), CLASSES),
    ),
    Reader(
        "coarse labels",
        _text("coarse.yaml", "wet: [frog]", "dry: &a", "- cat", "- dog"),
        ("coarse.yaml",),
        lambda folder, file: groups_of_classes(read_hierarchy(folder / file), CLASSES),
    ),
    Reader(
        "label noise",
        _text("wrong.csv", "sample_id,label", "cat/1.png,dog", '"dog/2, 3.png","2"'),
        ("wrong.csv",),
        lambda folder, file: read_relabelling(folder / file),
    ),
    Reader(
        "noise matrix",
        _text("n.csv", "cat,dog,frog", "0.9,0.1,0", "0,1e0,0", "0.25,0.25,.5"),
        ("n.csv",),
        lambda folder, file: read_noise(folder / "n.csv", CLASSES),
    ),
    Reader(
        "run",
        _run,
        (
            "r/recipe.yaml",
            "r/result.json",
            "r/summary.csv",
            "r/relations.json",
            f"r/{PSEUDO_LABELS}",
        ),
        lambda folder, file: read_run(folder / "r"),
    ),
    Reader("manifest", _cache, ("manifest.json",), _read_cache),
    Reader("plan", _unfinished, ("plan.json",), _read_plan),
    Reader(
        "shards",
        _cache,
        ("view-0000/shard-00000.safetensors", "eval.safetensors", "ids.safetensors"),
        _read_files_of_cache,
    ),
    Reader("sums", _cache, ("view-0001/shard-00001.safetensors", "eval.safetensors"), _read_cache),
    Reader(
        "table",
        _table,
        ("a.csv", "b.csv", "c.csv"),
        lambda folder, file: listed_splits(folder / file),
    ),
    Reader(
        "labels",
        _labels,
        ("a.csv", "a.npz", "b.npz"),
        lambda folder, file: read_label_file(folder / file, None),
    ),
    Reader("config", _model, ("config.json", "timm/config.json"), _read_models),
    Reader(
        "remembered",
        _remembered,
        ("decoded/k/index.json", "decoded/k/train.u8", "digests.json"),
        _read_remembered,
    ),
    Reader(
        "archives",
        _archives,
        ("a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "stored.zip", "packed.zip", "bz2.zip"),
        _read_archives,
    ),
    Reader(
        "pictures",
        _images,
        PICTURES,
        _read_images,
    ),
)
