"""The last two checkpoints of a run, and what is left of them by accidents."""

from __future__ import annotations

import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill_cli.errors import ArtifactError, InternalError
from distill_cli.files import remove_temporaries
from distill_cli.pipeline.folders import has_checkpoint
from distill_cli.training import checkpoint
from distill_cli.training.optim import create_optimizer, materialise
from distill_cli.training.seal import seal
from distill_cli.training.state import State

NEWEST, BEFORE = "last/checkpoint.pt", "last/checkpoint-before.pt"


def saved(run: Path, step: int) -> nn.Module:
    """Saves a network whose weights are all that number."""
    net = nn.Linear(3, 2)
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(step)
    checkpoint.save(run, State(step=step), {"network": net}, "key")
    return net


def step_of(run: Path) -> int:
    """The step that a run would go on from, which its weights agree with."""
    net = nn.Linear(3, 2)
    state = checkpoint.load(run, {"network": net}, "key")
    weights = torch.cat([weight.flatten() for weight in net.state_dict().values()])
    assert set(weights.tolist()) == {state.step}
    return state.step


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    """One bit of a weight, which torch reads as another number."""
    content = bytearray(path.read_bytes())
    at = content.index(torch.full((3,), 3.0).numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeroes(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step)
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == [
        "checkpoint-before.pt",
        "checkpoint.pt",
    ]
    assert step_of(tmp_path) == 3
    assert checkpoint.repair(tmp_path) == []
    (tmp_path / NEWEST).unlink()
    assert step_of(tmp_path) == 2


@pytest.mark.parametrize("damage", [cut, flip, empty, zeroes])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, damage: object) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step)
    damage(tmp_path / NEWEST)  # type: ignore[operator]
    assert checkpoint.check_key(tmp_path, "key") == "key"
    [line] = checkpoint.repair(tmp_path)
    assert str(tmp_path / NEWEST) in line
    assert "before it" in line
    assert step_of(tmp_path) == 2
    # What is damaged does not become the one before.
    saved(tmp_path, 4)
    cut(tmp_path / NEWEST)
    assert len(checkpoint.repair(tmp_path)) == 1
    assert step_of(tmp_path) == 2


def test_two_damaged_ones_are_refused_by_the_name_of_the_newer(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path, step)
    for name in (NEWEST, BEFORE):
        cut(tmp_path / name)
    for call in (checkpoint.repair, lambda run: checkpoint.check_key(run, "key")):
        with pytest.raises(ArtifactError, match=r"last/checkpoint\.pt cannot be read"):
            call(tmp_path)


def test_another_recipe_is_refused_whatever_the_one_before_is(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    checkpoint.rename(tmp_path, "other")
    saved(tmp_path, 2)
    with pytest.raises(ArtifactError, match="another recipe"):
        checkpoint.check_key(tmp_path, "other")


def test_a_new_key_is_that_of_both(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path, step)
    checkpoint.rename(tmp_path, "new")
    cut(tmp_path / NEWEST)
    assert checkpoint.check_key(tmp_path, "new") == "new"


@pytest.mark.parametrize("call", [1, 2])
def test_killed_between_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    for step in (1, 2):
        saved(tmp_path, step)
    plain, calls = os.replace, []

    def killed(name: str, target: str, **folders: int) -> None:
        calls.append(target)
        if len(calls) == call:
            raise KeyboardInterrupt
        plain(name, target, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, 3)
    remove_temporaries(tmp_path)
    assert has_checkpoint(tmp_path)
    assert checkpoint.check_key(tmp_path, "key") == "key"
    assert (not checkpoint.repair(tmp_path)) == (call == 1)
    assert step_of(tmp_path) == 2


def test_a_write_that_fails_leaves_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        saved(tmp_path, step)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InternalError, match="disk full"):
            saved(tmp_path, 3)
    assert step_of(tmp_path) == 2
    (tmp_path / NEWEST).unlink()
    assert step_of(tmp_path) == 1


def test_no_flipped_bit_is_gone_on_from(tmp_path: Path) -> None:
    """One of each eleventh byte, and of all of the checksum: in weights and in the archive's own records."""
    saved(tmp_path, 1)
    path, draw = tmp_path / NEWEST, random.Random(0)
    whole = path.read_bytes()
    for at in {*range(draw.randrange(11), len(whole), 11), *range(len(whole) - 81, len(whole))}:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError, match=r"last/checkpoint\.pt cannot be read"):
            checkpoint.check_key(tmp_path, "key")
    path.write_bytes(whole)
    assert step_of(tmp_path) == 1


def test_one_without_a_checksum_is_gone_on_from_with_a_line(tmp_path: Path) -> None:
    """As 0.4.0 wrote it; torch reads either."""
    saved(tmp_path, 1)
    content = torch.load(tmp_path / NEWEST, weights_only=True)
    assert content.pop("checksum") == "sha256"
    torch.save(content, tmp_path / NEWEST)
    [line] = checkpoint.repair(tmp_path)
    assert f"{tmp_path / NEWEST} has no checksum" in line
    assert step_of(tmp_path) == 1
    saved(tmp_path, 2)
    assert checkpoint.repair(tmp_path) == []
    # Where the last one is damaged, the one before says so of itself.
    cut(tmp_path / NEWEST)
    assert ["before it" in line for line in checkpoint.repair(tmp_path)] == [True, False]


def test_a_checksum_of_the_right_bytes_makes_no_pickle_safe(tmp_path: Path) -> None:
    """Anybody can compute one: what is read is still weights alone, and not compressed."""
    saved(tmp_path, 1)
    path = tmp_path / NEWEST
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    seal(buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ArtifactError, match="compressed"):
        checkpoint.check_key(tmp_path, "key")


def without_seal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Writes another content, as a version before 0.5.0 would have."""
    content = torch.load(path, weights_only=True)
    del content["checksum"]
    change(content)
    torch.save(content, path)


def put(*keys: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


WRONG = {
    **{
        f"no {key}": lambda content, key=key: content.pop(key)
        for key in ("key", "state", "parts", "rng", "cuda_rng", "format")
    },
    **{
        f"{key} a number": put(key, value=1.5)
        for key in ("key", "state", "parts", "rng", "cuda_rng", "format")
    },
    "another version": put("format", value=99),
    "format a tensor": put("format", value=torch.zeros(2)),
    "rng short": put("rng", value=torch.zeros(8, dtype=torch.uint8)),
    "rng of zeroes": put("rng", value=torch.zeros_like(torch.get_rng_state())),
    "cuda_rng of words": put("cuda_rng", value=["x"]),
    "no epoch": lambda content: content["state"].pop("epoch"),
    "epoch a word": put("state", "epoch", value="x"),
    "epoch below 0": put("state", "epoch", value=-1),
    "tally of words": put("state", "tally", value={"loss": "x"}),
    "growth of words": put("state", "growth", value={"first": {"ce": "x"}}),
    "made-up labels of a fraction": put("state", "pseudo_labels", value=[1, 0, 0, 0.5]),
    "made-up labels of no class": put("state", "pseudo_labels", value=[1, 0, 0]),
    "one log": put("state", "log_lengths", value=[3]),
    "unknown state": put("state", "x", value=1),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_content_is_a_damage_as_others(tmp_path: Path, case: str) -> None:
    for step in (1, 2):
        saved(tmp_path, step)
    without_seal(tmp_path / NEWEST, WRONG[case])
    assert checkpoint.check_key(tmp_path, "key") == "key"
    [line] = checkpoint.repair(tmp_path)
    assert line.startswith(f"checkpoint {tmp_path / NEWEST} cannot be read: ")
    assert step_of(tmp_path) == 1
    without_seal(tmp_path / NEWEST, WRONG[case])
    with pytest.raises(ArtifactError, match=r"last/checkpoint\.pt cannot be read: .*--overwrite"):
        checkpoint.check_key(tmp_path, "key")


@pytest.mark.parametrize(
    "part", [None, {}, {"weight": torch.ones(9)}, {"weight": "x", "bias": "y"}, 5, "absent"]
)
def test_a_part_that_does_not_fit_is_named(tmp_path: Path, part: object) -> None:
    saved(tmp_path, 1)
    without_seal(
        tmp_path / NEWEST,
        put("parts", value={} if part == "absent" else {"network": part}),
    )
    with pytest.raises(ArtifactError, match=r"checkpoint\.pt cannot be read: .*network"):
        step_of(tmp_path)


OPTIMIZERS = {
    "nothing": (lambda kept: kept.clear(), "'param_groups' is missing"),
    "an option": (lambda kept: kept["param_groups"][0].pop("eps"), "option eps is missing"),
    "a rate": (lambda kept: kept["param_groups"][0].update(lr="x"), "option lr is missing or"),
    "a row": (lambda kept: kept["param_groups"][0].update(betas=[0.9]), "option betas is"),
    "a state": (lambda kept: kept["state"][0].pop("exp_avg"), "exp_avg is missing"),
    "a kind": (lambda kept: kept["param_groups"][0].update(lr=torch.tensor(1j)), "option lr is"),
    "a shape": (lambda kept: kept["state"][0].update(exp_avg=torch.ones(2)), "exp_avg is missing"),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_an_optimizer_that_does_not_fit_is_named(tmp_path: Path, case: str) -> None:
    """What it would stumble over at its next step; torch looks at the sizes of groups alone."""
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    materialise(optimizer)
    checkpoint.save(tmp_path, State(), {"optimizer": optimizer}, "key")
    change, words = OPTIMIZERS[case]
    without_seal(tmp_path / NEWEST, lambda content: change(content["parts"]["optimizer"]))
    with pytest.raises(ArtifactError, match=f"state of its optimizer does not fit .{words}"):
        checkpoint.load(tmp_path, {"optimizer": optimizer}, "key")


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "muon", "adafactor", "lion", "nadamw"])
@pytest.mark.parametrize("stepped", [False, True])
def test_an_optimizer_that_fits_is_restored(tmp_path: Path, name: str, stepped: bool) -> None:
    """Into a new one, and into one that has stepped: some keep flags and nothing in their state."""

    def made() -> torch.optim.Optimizer:
        return create_optimizer(net, name, rate=0.01, weight_decay=0.1, momentum=0.9)

    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net(torch.ones(2, 3)).sum().backward()
    optimizer = made()
    materialise(optimizer)
    if stepped:
        optimizer.step()
    checkpoint.save(tmp_path, State(), {"optimizer": optimizer}, "key")
    fresh = made()
    materialise(fresh)
    for other in (fresh, optimizer):
        checkpoint.load(tmp_path, {"optimizer": other}, "key")
        other.step()


def test_the_one_before_is_named_where_it_is_alone(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path, step)
    (tmp_path / NEWEST).unlink()
    cut(tmp_path / BEFORE)
    with pytest.raises(ArtifactError, match=r"checkpoint-before\.pt cannot be read: .*--overwrite"):
        checkpoint.check_key(tmp_path, "key")
