"""Damaged checkpoints and models, and weights that are no numbers: seen when they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from distill_cli.models import Network
from distill_cli.pipeline.run.prepared import PreparedRun
from distill_cli.training.state import HeldOut
from tests.cli.test_cache import shapes
from tests.cli.test_faults import one_line
from tests.cli.test_others_models import timms
from tests.conftest import Made, Outcome, tree
from tests.processes import start
from tests.reliability import Reliability
from tests.saved import same

Distill = Callable[..., Outcome]
FIXTURES = Path(__file__).parents[1] / "fixtures"
WEIGHTS, CONFIG = "t/model/model.safetensors", "t/model/config.json"
LAST, BEFORE = "t/last/checkpoint.pt", "t/last/checkpoint-before.pt"
RESUME = ("teacher", "train", "--resume", "--out", "t")
TINY = ("--model", "mlp_8x1", "--epochs", 1, "--quiet")
# Whatever reads the weights of t.
READERS = {
    "predict": ("predict", "t", "x.png"),
    "evaluate": ("evaluate", "t", "--json"),
    "teacher": ("student", "--teachers", "t", "--out", "s", *TINY),
    "compared": ("evaluate", "other", "--teacher", "t"),
    "init": ("teacher", "train", "--data", "digits", "--init", "t", "--out", "s", *TINY[2:]),
    "dump": ("cache-soft-labels", "--teachers", "t", "--out", "c", "--quiet"),
    "verify": ("cache", "verify", "labels/a", "--sample", 4, "--teacher", "t", "--quiet"),
    "taps": ("models", "taps", "t"),
    "resume": (*RESUME, "--quiet"),
}


@pytest.fixture
def copied(made: Made, here: Path) -> Path:
    """A teacher that may be damaged, beside what else is asked for."""
    shutil.copytree(made.teacher, here / "t")
    (here / "other").symlink_to(made.other)
    (here / "labels").symlink_to(made.labels)
    Image.new("L", (8, 8), 99).save(here / "x.png")
    return here


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def with_value(path: Path, value: float) -> None:
    """One weight of a file that has no checksum, as another tool would save it."""
    tensors = load_file(path)
    tensors["fc.weight"].view(-1)[3] = value
    save_file(tensors, path)


@pytest.mark.parametrize("reader", READERS)
def test_weights_with_a_flipped_bit_are_not_used(
    copied: Path, distill: Distill, reader: str, reliability: Reliability
) -> None:
    flip(copied / WEIGHTS)
    outcome = distill(*READERS[reader])
    assert outcome.code == 3, outcome.err
    assert f"{WEIGHTS} is damaged: its checksum does not agree" in one_line(outcome)
    assert not (copied / "s").exists()
    if reader == "predict":
        reliability(
            "Models and checkpoints", "a flipped bit in weights", "distill predict t x.png", outcome
        )


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
@pytest.mark.parametrize("reader", READERS)
def test_weights_that_are_no_numbers_are_not_used(
    copied: Path, distill: Distill, reader: str, value: float, reliability: Reliability
) -> None:
    with_value(copied / WEIGHTS, value)
    outcome = distill(*READERS[reader])
    assert outcome.code == 3, outcome.err
    said = "NaN" if value != value else "infinity"
    assert f"{WEIGHTS}: tensor fc.weight holds {said}" in one_line(outcome)
    assert not (copied / "s").exists()
    if reader == "evaluate":
        fault, command = f"{said} in weights", "distill evaluate t --json"
        reliability("Models and checkpoints", fault, command, outcome)


def test_nor_are_those_of_a_folder_that_timm_saved(here: Path, distill: Distill) -> None:
    shapes(here / "data", 8)
    timms(here / "t")
    path = here / "t/model.safetensors"
    tensors = load_file(path)
    tensors["layer1.0.bn1.running_var"][1] = float("inf")
    save_file(tensors, path)
    args = ("student", "--teachers", "t", "--data", "data", "--force", "--out", "s", *TINY)
    outcome = distill(*args)
    assert outcome.code == 3
    assert "tensor layer1.0.bn1.running_var holds infinity" in one_line(outcome)


@pytest.mark.parametrize(
    "command", [("predict", "t", "x.png", "--json"), ("evaluate", "t", "--json")]
)
def test_answers_that_are_no_numbers_are_none(
    copied: Path, distill: Distill, command: tuple[str, ...]
) -> None:
    """Weights that are numbers may be too large for the arithmetic."""
    tensors = load_file(copied / WEIGHTS)
    save_file({name: tensor * 1e30 for name, tensor in tensors.items()}, copied / WEIGHTS)
    outcome = distill(*command)
    assert outcome.code == 3, outcome.err
    assert outcome.out == ""
    assert "t answers NaN or infinity" in outcome.err.splitlines()[-1]


def test_a_config_with_a_flipped_bit_is_not_used(
    copied: Path, distill: Distill, reliability: Reliability
) -> None:
    """The first digit of the mean by which images are normalised."""
    content = bytearray((copied / CONFIG).read_bytes())
    content[content.index(b"0.", content.rindex(b'"mean"')) + 2] ^= 1
    (copied / CONFIG).write_bytes(content)
    outcome = distill("predict", "t", "x.png")
    assert outcome.code == 3
    assert f"{CONFIG} is damaged: its checksum does not agree" in one_line(outcome)
    reliability(
        *("Models and checkpoints", "a flipped bit in config.json of a model"),
        *("distill predict t x.png", outcome),
    )


def test_a_checkpoint_with_a_flipped_bit_gives_way_to_the_one_before(
    made: Made, copied: Path, distill: Distill, reliability: Reliability
) -> None:
    flip(copied / LAST)
    outcome = distill(*RESUME)
    assert outcome.code == 0, outcome.err
    [line] = [line for line in outcome.err.splitlines() if "checkpoint" in line]
    assert line.startswith(f"checkpoint {LAST} cannot be read: its checksum does not agree: going")
    assert same(made.teacher, copied / "t")
    reliability(
        *("Models and checkpoints", "a flipped bit in last/checkpoint.pt"),
        *("distill teacher train --resume --out t", outcome),
        message=line,
    )


def test_two_checkpoints_with_a_flipped_bit_are_not_gone_on_from(
    copied: Path, distill: Distill, reliability: Reliability
) -> None:
    for name in (LAST, BEFORE):
        flip(copied / name)
    before = tree(copied / "t" / "model", copied / "t" / "last")
    outcome = distill(*RESUME, "--quiet")
    assert outcome.code == 3
    assert f"checkpoint {LAST} cannot be read: its checksum" in one_line(outcome)
    assert tree(copied / "t" / "model", copied / "t" / "last") == before
    reliability(
        *("Models and checkpoints", "a flipped bit in both checkpoints"),
        *("distill teacher train --resume --out t", outcome),
    )
    assert distill(*RESUME[:2], "--data", "digits", "--overwrite", "--out", "t", *TINY).code == 0


def test_a_checkpoint_with_a_wrong_content_is_damaged(
    copied: Path, distill: Distill, reliability: Reliability
) -> None:
    """As another program would write one; sums of bytes tell nothing of it."""
    (copied / "t" / "result.json").unlink()
    (copied / BEFORE).unlink()
    content = torch.load(copied / LAST, weights_only=True)
    del content["checksum"]
    parts = {**content["parts"], "optimizer": {}}
    state = {**content["state"], "epoch": "x"}
    for change, named in (
        ({"parts": parts}, "the state of its optimizer does not fit"),
        ({"state": state}, "epoch of its state is missing or damaged"),
    ):
        torch.save({**content, **change}, copied / LAST)
        outcome = distill(*RESUME, "--quiet")
        assert outcome.code == 3, outcome.err
        assert f"checkpoint {LAST} cannot be read: {named}" in one_line(outcome)
    reliability(
        *("Models and checkpoints", "a checkpoint with another content"),
        *("distill teacher train --resume --out t", outcome),
    )


def test_a_damaged_checkpoint_before_without_a_last_one_is_no_dead_end(
    copied: Path, distill: Distill
) -> None:
    (copied / LAST).unlink()
    flip(copied / BEFORE)
    outcome = distill(*RESUME, "--quiet")
    assert outcome.code == 3
    line = one_line(outcome)
    assert f"checkpoint {BEFORE} cannot be read: its checksum does not agree" in line
    assert "--overwrite" in line
    assert "without --resume" not in line


def test_models_and_checkpoints_of_before_are_used_with_a_line_each(
    here: Path, distill: Distill
) -> None:
    shutil.copytree(FIXTURES / "begun-0.1.0", here, dirs_exist_ok=True)
    Image.new("L", (8, 8), 99).save("x.png")
    outcome = distill("predict", "teacher", "x.png", "--json")
    assert outcome.code == 0, outcome.err
    [line] = outcome.err.splitlines()
    assert line.startswith("teacher/model/model.safetensors has no checksum")
    assert json.loads(outcome.out)["class"]
    outcome = distill("evaluate", "teacher", "--teacher", "teacher", "--json")
    assert [line for line in outcome.err.splitlines() if "checksum" in line] == [line]
    for _ in range(2):
        outcome = distill("student", "--resume", "--out", "taught")
        assert outcome.code == 0, outcome.err
        files = [line.split()[0] for line in outcome.err.splitlines() if "checksum" in line]
        expected = {"teacher/model/model.safetensors"}
        if "last/checkpoint.pt" in outcome.err:
            expected |= {"taught/last/checkpoint.pt"}
        assert {Path(file).name for file in files} == {Path(file).name for file in expected}
        assert len(files) == len(expected)


ARGS = ("teacher", "train", "--data", "digits", "--model", "mlp_64x1", "--epochs", 2)


def test_a_run_with_a_model_and_no_checkpoint_begins_anew(
    here: Path, distill: Distill, reliability: Reliability
) -> None:
    """The disk was full for the first checkpoint."""
    assert distill(*ARGS, "--out", "whole", "--quiet").code == 0
    sizes = [(here / "whole" / name).stat().st_size for name in (WEIGHTS[2:], LAST[2:])]
    assert sizes[0] + 3000 < sizes[1]
    ended = start(*ARGS, "--out", "t", "--quiet", limit=sizes[0] + 2000).end()
    assert ended.code == 1, ended.err
    assert b"disk full while writing t/last/checkpoint.pt" in ended.err
    assert b"--resume" in ended.err
    assert (here / CONFIG).exists()
    plain = distill(*ARGS, "--out", "t", "--quiet")
    assert plain.code == 2
    assert "go on with --resume" in plain.err
    before = tree(here / "t" / "model", here / "t" / "last")
    for change in (("--lr", 0.01), ("--seed", 3)):
        other = distill(*ARGS, *change, "--out", "t", "--resume", "--quiet")
        assert other.code == 3
        assert f"another recipe or other data: {change[0][2:]}" in other.err
        assert distill(*ARGS, *change, "--out", "t", "--resume", "--dry-run").code == 3
    assert tree(here / "t" / "model", here / "t" / "last") == before
    outcome = distill(*ARGS, "--out", "t", "--resume")
    assert outcome.code == 0, outcome.err
    [line] = [line for line in outcome.err.splitlines() if "no checkpoint" in line]
    assert line == "t has no checkpoint yet: it begins anew"
    assert same(here / "whole", here / "t")
    assert len((here / "t/summary.csv").read_text().splitlines()) == 3
    reliability(
        *("Kills, disks and streams", "killed, or the disk full, before the first checkpoint"),
        *("distill teacher train … --out t --resume", outcome),
        message=line,
    )


@pytest.mark.parametrize("lost", ["last", "last and figures", "last and recipe"])
def test_a_model_that_is_more_than_a_run_of_one_epoch_is_not_begun_anew(
    made: Made, copied: Path, distill: Distill, lost: str
) -> None:
    shutil.rmtree(copied / "t" / "last")
    if lost == "last and figures":
        (copied / "t" / "result.json").unlink()
    if lost == "last and recipe":
        for name in ("recipe.yaml", "result.json", "summary.csv"):
            (copied / "t" / name).unlink()
    before = tree(copied / "t")
    outcome = distill("teacher", "train", "--data", "digits", "--out", "t", "--resume", *TINY)
    assert outcome.code == 2
    assert "holds a model but no checkpoint" in one_line(outcome)
    assert tree(copied / "t") == before


def test_training_keeps_no_best_model_that_nobody_could_load(
    here: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit of bias −∞ is never on: the figures do not tell."""
    from distill_cli.pipeline.run import trainer

    plain, epochs = trainer.all_held_out, iter(range(9))

    def spoilt(prepared: PreparedRun, network: Network) -> HeldOut:
        epoch = next(epochs)
        if epoch == 1:
            network.net.state_dict()["layers.0.bias"][3] = -float("inf")
        return replace(plain(prepared, network), rank=(float(epoch),))

    monkeypatch.setattr(trainer, "all_held_out", spoilt)
    outcome = distill(*ARGS, "--out", "t", "--quiet")
    assert outcome.code == 4
    assert "tensor layers.0.bias holds infinity" in one_line(outcome)
    assert all(tensor.isfinite().all() for tensor in load_file(here / WEIGHTS).values())
    monkeypatch.setattr(trainer, "all_held_out", plain)
    assert distill(*ARGS, "--resume", "--out", "t", "--quiet").code == 0
