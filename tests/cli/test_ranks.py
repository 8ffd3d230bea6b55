"""`--ranks`: how several ranks start, speak, fail and go on; see `tests/ranks.py`."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import SignalException

from distill_cli.cli import launching
from distill_cli.cli.rank_flags import RankFlags
from distill_cli.launcher import attempts as attempts_of_launcher
from tests.conftest import Made, Outcome
from tests.processes import Process, Written, fork, typed
from tests.ranks import launch, on_rank, placed, port, ranks_of
from tests.reliability import Reliability
from tests.terminals import CONTROL, INTERRUPT, When, on_terminal

Distill = Callable[..., Outcome]

# Small and slow enough to be stopped; fp32, for runs are compared to the bit.
TRAIN = (
    *(
        "teacher",
        "train",
        "--data",
        "digits",
        "--model",
        "mlp_8x1",
        "-b",
        64,
        "--augment",
        "shift:1",
    ),
    *("--precision", "fp32", "--device", "cpu", "--out", "t"),
)
HOST = socket.gethostname()


@pytest.fixture(autouse=True, scope="module")
def _ready() -> None:
    """Has children find everything imported, and the digits read."""
    from distill_cli.data.dataset import open_dataset
    from distill_cli.pipeline.run import stages

    open_dataset("digits")
    assert stages


def told(ended: Written) -> Outcome:
    """How a command ended, as the page of faults is told."""
    assert b"Traceback" not in ended.err, ended.err.decode()
    return Outcome(ended.code, ended.out.decode(), ended.err.decode())


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def checkpointed(run: Path) -> Callable[[], bool]:
    return (run / "last" / "checkpoint.pt").exists


def outcome_of(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "last" / "outcome.json").read_text())
    return found


def test_one_rank_speaks_and_no_process_is_left(here: Path) -> None:
    process = launch(*TRAIN, "--epochs", 2, "--ranks", 2, "--json")
    ended = told(process.end())
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["run"] == "t"
    assert ended.err.count("held-out") == 2
    assert ended.err.count("digits: 1,797 images used") == 1
    assert not ranks_of(process)


def test_one_bar_moves_on_a_terminal_and_ctrl_c_stops_all(here: Path) -> None:
    def before() -> None:
        launching.START = "fork"
        slow_steps()

    whens = [When("loss", INTERRUPT, after=0.3)]
    shown = on_terminal(
        *TRAIN, "--epochs", 400, "--ranks", 2, whens=whens, before=before, columns=120
    )
    assert shown.code == 130, shown.text
    assert CONTROL in shown.text
    bars = [line for line in shown.lines if "images/s" in line]
    assert bars
    # Two bars would stand in one frame.
    assert all(line.count("epoch") <= 1 for line in shown.lines)
    assert shown.text.count("stopped in epoch") == 1


def test_evaluations_and_dumps_are_shared_out(made: Made, distill: Distill, here: Path) -> None:
    alone = distill("evaluate", made.teacher, "--json", "--device", "cpu")
    evaluated = told(
        launch("evaluate", made.teacher, "--json", "--device", "cpu", "--ranks", 2).end()
    )
    assert evaluated.code == 0, evaluated.err
    one, two = json.loads(alone.out), json.loads(evaluated.out)
    assert two["nll"] == pytest.approx(one["nll"], rel=1e-5)
    dump = ("cache-soft-labels", "--teachers", made.teacher, "--views", 2, "--shard-length", 600)
    dumped = told(launch(*dump, "--out", "c", "--ranks", 2).end())
    assert dumped.code == 0, dumped.err
    assert dumped.out == "c\n"
    assert told(launch("cache", "verify", "c").end()).code == 0


# Faults of one rank.


def test_a_rank_that_is_killed(here: Path, reliability: Reliability) -> None:
    process = launch(*TRAIN, "--epochs", 4000, "--checkpoint-every", "1s", "--ranks", 2)
    process.until(checkpointed(here / "t"), "a checkpoint")
    started = time.monotonic()
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    ended = told(process.end())
    assert time.monotonic() - started < 30
    assert ended.code == 1
    message = f"rank 1 on {HOST}: it was killed"
    assert ended.err.count("error: ") == ended.err.count(f"error: {message}") == 1
    assert outcome_of(here / "t") == {"code": 1, "message": message, "rank": 1, "host": HOST}
    fault = "a rank is killed (SIGKILL)"
    reliability("Many ranks", fault, "distill teacher train … --ranks 2", anywhere(ended))


def anywhere(ended: Outcome) -> Outcome:
    """The same on a machine of any name."""
    return Outcome(ended.code, ended.out, ended.err.replace(f" on {HOST}", " on HOST"))


@pytest.mark.slow
def test_ranks_start_anew_after_a_kill(here: Path, reliability: Reliability) -> None:
    whole = told(launch(*TRAIN, "--epochs", 12, "--ranks", 2).end())
    assert whole.code == 0
    (here / "t").rename(here / "whole")
    again = (*TRAIN, "--epochs", 12, "--checkpoint-every", "1s", "--ranks", 2, "--max-restarts", 3)
    process = launch(*again, before=slow_steps)
    process.until(checkpointed(here / "t"), "a checkpoint")
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    ended = told(process.end())
    assert ended.code == 0, ended.err
    line = "the ranks are started anew, 1 of 3"
    assert ended.err.count(line) == 1
    assert weights(here / "t") == weights(here / "whole")
    command = "distill teacher train … --ranks 2 --max-restarts 3"
    fault = "a rank is killed, and restarts are asked for"
    reliability("Many ranks", fault, command, ended, message=f"{line}; the bits of an unbroken run")


def slow_steps() -> None:
    from distill_cli.training.loop import Trainer

    plain = Trainer.train_step

    def train_step(self: Trainer, batch: object) -> int:
        time.sleep(0.01)
        return plain(self, batch)  # type: ignore[arg-type]

    Trainer.train_step = train_step  # type: ignore[assignment, method-assign]


def spoil_a_gradient() -> None:
    """The gradient of one step, in the second epoch, becomes NaN."""
    from distill_cli.training.exchange import Exchange

    plain, calls = Exchange.reduce, [0]

    def reduce(self: Exchange, optimizers: object) -> None:
        calls[0] += 1
        if calls[0] == 25:
            grad = next(self.network.parameters()).grad
            assert grad is not None
            grad.view(-1)[0] = float("nan")
        plain(self, optimizers)  # type: ignore[arg-type]

    Exchange.reduce = reduce  # type: ignore[assignment, method-assign]


@pytest.mark.slow
def test_a_gradient_that_is_no_number(here: Path, reliability: Reliability) -> None:
    options = ("--epochs", 3, "--ranks", 2, "--max-restarts", 3)
    ended = told(launch(*TRAIN, *options, before=on_rank(1, spoil_a_gradient)).end())
    assert ended.code == 4
    # There is no other attempt: it would diverge again.
    assert "anew" not in ended.err
    assert ended.err.count("error: ") == 1
    assert "no longer a number on rank 1 of 2" in ended.err
    kept = outcome_of(here / "t")
    assert (kept["code"], kept["rank"], kept["host"]) == (4, 1, HOST)
    command = "distill teacher train … --ranks 2 --max-restarts 3"
    reliability("Many ranks", "a gradient of one rank is NaN", command, ended)
    # What it goes on with has not moved: the first epoch's weights are those of a run without the fault.
    again = told(launch(*TRAIN, "--epochs", 3, "--ranks", 2, "--resume").end())
    assert again.code == 0, again.err
    spoilt = weights(here / "t")
    assert told(launch(*TRAIN, "--epochs", 3, "--ranks", 2, "--overwrite").end()).code == 0
    assert weights(here / "t") == spoilt


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop(number: int, code: int, here: Path, reliability: Reliability) -> None:
    command = (*TRAIN, "--epochs", 12)
    process = launch(*command, "--ranks", 2, before=slow_steps)
    process.until(checkpointed(here / "t"), "a checkpoint")
    process.send(number)
    ended = told(process.end())
    assert ended.code == code, ended.err
    assert ended.err.count("stopped in epoch") == 1
    assert not ranks_of(process)
    if number == signal.SIGTERM:
        line = "stopped in epoch … of 12. Go on with --resume --out t"
        fault = "SIGTERM to the command of several ranks"
        reliability("Many ranks", fault, "distill teacher train … --ranks 2", ended, message=line)
        # Another number of ranks goes on.
        alone = told(launch(*command, "--resume").end())
        assert alone.code == 0, alone.err
        assert "begun on 2 ranks, it goes on on 1: equal to rounding" in alone.err


@pytest.mark.parametrize(
    ("fault", "does", "code"),
    [
        ("the data of one rank are missing", lambda: named("/nowhere"), 2),
        ("one rank has other data", lambda: named("photos"), 3),
    ],
    ids=["missing", "other"],
)
def test_data_of_one_rank(
    fault: str, does: Callable[[], object], code: int, here: Path, reliability: Reliability
) -> None:
    if code == 3:
        write_images(here / "photos")
    ended = told(launch(*TRAIN, "--epochs", 2, "--ranks", 2, before=on_rank(1, does)).end())
    assert ended.code == code, ended.err
    assert ended.err.count("error: ") == ended.err.count(f"rank 1 on {HOST}") == 1
    assert not (here / "t").exists()
    reliability("Many ranks", fault, "distill teacher train … --ranks 2", anywhere(ended))


def named(data: str) -> None:
    """Has this process be told of other data."""
    from distill_cli.cli import app

    plain = app.run

    def run() -> None:
        import sys

        sys.argv[sys.argv.index("digits")] = data
        plain()

    app.run = run


def write_images(folder: Path) -> None:
    """Ten classes of other images."""
    from PIL import Image

    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for number in range(30):
            shade = 20 * label + number % 20
            Image.new("L", (8, 8), shade).save(folder / str(label) / f"{number}.png")


def test_a_batch_that_ranks_do_not_divide(here: Path, reliability: Reliability) -> None:
    ended = told(launch(*TRAIN, "--epochs", 2, "--ranks", 3).end())
    assert ended.code == 2
    assert "63 or 66" in ended.err
    command = "distill teacher train … -b 64 --ranks 3"
    reliability("Many ranks", "the batch is not divided by the ranks", command, ended)


@pytest.mark.slow
def test_another_recipe_is_not_gone_on_with(here: Path, reliability: Reliability) -> None:
    assert told(launch(*TRAIN, "--epochs", 1, "--ranks", 2).end()).code == 0
    other = (*TRAIN, "--epochs", 2, "--lr", 0.3, "--ranks", 2, "--resume", "--max-restarts", 2)
    ended = told(launch(*other).end())
    assert ended.code == 3, ended.err
    assert ended.err.count("error: ") == 1
    command = "distill teacher train … --lr 0.3 --ranks 2 --resume"
    reliability("Many ranks", "the run was begun by another recipe", command, ended)


# Ranks of another launcher.


def attempts(store: TCPStore, number: int, *args: object) -> list[Outcome]:
    """An attempt of torchrun's, which keeps the store, by two ranks."""

    def started_anew(rank: int) -> Process:
        place = placed(rank, 2, store.port)
        names = {"TORCHELASTIC_RESTART_COUNT": str(number), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        return fork(typed(args), before=lambda: (place(), os.environ.update(names)))

    return [told(process.end()) for process in [started_anew(rank) for rank in range(2)]]


@pytest.fixture
def store() -> TCPStore:
    """A store as torchrun's, of all attempts."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_torchruns_next_attempt_repeats_a_refusal(
    here: Path, distill: Distill, store: TCPStore
) -> None:
    """A finished run is not taken for one that the command has begun."""
    command = (*TRAIN, "--epochs", 1)
    assert distill(*command).code == 0
    before = (here / "t" / "result.json").read_bytes()
    for number in range(3):
        ended = attempts(store, number, *command)
        assert [one.code for one in ended] == [2, 2], ended
        assert ended[0].out == ended[1].out == ""
        assert ended[0].err.count("already holds a run") == 1
    assert "(so attempt 1 ended)" in ended[0].err
    assert (here / "t" / "result.json").read_bytes() == before


@pytest.mark.slow
def test_torchruns_next_attempt_goes_on_with_what_was_begun(here: Path, store: TCPStore) -> None:
    """After a kill; before anything was begun, the command is done as typed."""
    command = (*TRAIN, "--epochs", 2)
    (here / "t").mkdir()
    store.set("distill/met", json.dumps({"out": "t", "state": None}))
    assert [one.code for one in attempts(store, 1, *command)] == [0, 0]
    # As typed, it would be refused: the folder holds a run.
    assert [one.code for one in attempts(store, 2, *command)] == [0, 0]


def test_what_one_process_does_is_shown_by_each(distill: Distill, here: Path) -> None:
    """No rank is silent where there is nothing to share."""
    shown = [
        fork(typed(args), before=placed(1, 2, port())).end() for args in (["methods"], ["--help"])
    ]
    assert [one.code for one in shown] == [0, 0]
    assert b"kd" in shown[0].out
    assert b"teacher" in shown[1].out
    assert told(fork(typed([*TRAIN, "--help"]), before=placed(1, 2, port())).end()).out


# The launch itself.


def test_ranks_have_the_interface_and_quiet_of_their_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are set before the process that ranks are forked from is started."""
    names = ("GLOO_SOCKET_IFNAME", "TORCH_CPP_LOG_LEVEL")
    for name in (*names, "OMP_NUM_THREADS", "DISTILL_DEBUG"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    had: list[str | None] = []

    def prepare() -> None:
        had.extend(os.environ.get(name) for name in names)
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_prepare", prepare)
    with pytest.raises(KeyboardInterrupt):
        launching.start(RankFlags(ranks=2), out=None, device="cpu")
    assert had == ["lo", "ERROR"]


class Lonely(attempts_of_launcher.Agent):
    """The agent of one of two machines whose other one never comes to its end."""

    def __init__(self, store: TCPStore) -> None:
        self._store = store
        self._worker_group: Any = SimpleNamespace(group_world_size=2)


def test_a_launcher_does_not_wait_long_for_another(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempts_of_launcher.PARTING <= 10
    monkeypatch.setattr(attempts_of_launcher, "PARTING", 0.3)
    started = time.monotonic()
    Lonely(store)._exit_barrier()
    assert 0.3 <= time.monotonic() - started < 5


def test_a_signal_ends_a_launcher_that_waits_for_another(store: TCPStore) -> None:
    def stop(number: int, frame: object) -> None:
        raise SignalException("stopped", signal.Signals(number))

    plain = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    started = time.monotonic()
    try:
        with pytest.raises(SignalException):
            Lonely(store)._exit_barrier()
    finally:
        signal.signal(signal.SIGALRM, plain)
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_rank_that_does_not_come(here: Path, reliability: Reliability) -> None:
    command = typed((*TRAIN, "--epochs", 1, "--rank-timeout", "2s"))
    ended = told(fork(command, before=placed(0, 2, port())).end())
    assert ended.code == 1
    assert ended.err.count("error: ") == 1
    reliability("Many ranks", "a rank does not come", "RANK=0 WORLD_SIZE=2 distill …", ended)


@pytest.mark.slow
def test_a_rank_that_does_not_answer(here: Path, reliability: Reliability) -> None:
    at = port()
    command = typed((*TRAIN, "--epochs", 4000, "--checkpoint-every", "1s", "--rank-timeout", "2s"))
    processes = [fork(command, before=placed(rank, 2, at)) for rank in range(2)]
    processes[0].until(checkpointed(here / "t"), "a checkpoint")
    # As a machine that is lost: it is silent, and nobody is told.
    processes[1].send(signal.SIGSTOP)
    started = time.monotonic()
    ended = told(processes[0].end())
    assert time.monotonic() - started < 15
    assert ended.code == 1
    assert outcome_of(here / "t")["rank"] == 1
    command_line = "distill teacher train … --ranks 2 --rank-timeout 2s"
    reliability("Many ranks", "a machine vanishes", command_line, anywhere(ended))
    processes[1].send(signal.SIGKILL)
    processes[1].send(signal.SIGCONT)
    assert processes[1].end().code == -signal.SIGKILL


# Machines.


def test_two_machines(here: Path) -> None:
    at = f"127.0.0.1:{port()}"
    machine = (*TRAIN, "--epochs", 2, "--ranks", 1, "--nnodes", 2, "--rendezvous", at)
    second = launch(*machine, "--node-rank", 1)
    first = launch(*machine, "--node-rank", 0)
    ended = [told(process.end()) for process in (first, second)]
    assert [one.code for one in ended] == [0, 0], [one.err for one in ended]
    assert ended[0].out == "t\n"
    assert ended[1].out == ""
    assert "images used" not in ended[1].err


@pytest.mark.slow
def test_a_fault_is_said_on_each_of_two_machines_and_both_start_anew(here: Path) -> None:
    at = f"127.0.0.1:{port()}"
    machine = (*TRAIN, "--epochs", 12, "--ranks", 1, "--nnodes", 2, "--rendezvous", at)
    machine = (*machine, "--checkpoint-every", "1s", "--max-restarts", 1)
    processes = [launch(*machine, "--node-rank", k, before=slow_steps) for k in range(2)]
    processes[0].until(checkpointed(here / "t"), "a checkpoint")
    os.kill(ranks_of(processes[1])[0], signal.SIGKILL)
    ended = [told(process.end()) for process in processes]
    assert [one.code for one in ended] == [0, 0], [one.err for one in ended]
    for one in ended:
        assert one.err.count(f"rank 1 on {HOST}: it was killed") == 1
        assert "the ranks are started anew, 1 of 1" in one.err


def soon() -> None:
    from distill_cli.launcher import machines

    machines.MUSTER = 0.5


def test_machines_that_do_not_meet(here: Path, reliability: Reliability) -> None:
    at = port()
    machine = (*TRAIN, "--ranks", 1, "--nnodes", 2, "--rendezvous", f"127.0.0.1:{at}")
    ended = [told(launch(*machine, "--node-rank", k, before=soon).end()) for k in range(2)]
    assert [one.code for one in ended] == [1, 1]
    assert "not all machines have come: of node rank 1" in ended[0].err
    command = "distill … --ranks 1 --nnodes 2 --node-rank 1 --rendezvous node0:29500"
    at_node = ended[1].err.replace(f"127.0.0.1:{at}", "node0:29500").replace("0.5 s", "600 s")
    shown = Outcome(ended[1].code, "", at_node)
    reliability("Many ranks", "machine 0 does not come", command, shown)


def test_a_port_that_is_taken(here: Path, reliability: Reliability) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        at = listener.getsockname()[1]
        machine = (*TRAIN, "--ranks", 1, "--nnodes", 2, "--rendezvous", f"127.0.0.1:{at}")
        ended = told(launch(*machine, "--node-rank", 0, before=soon).end())
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    shown = Outcome(2, "", ended.err.replace(f"port {at} of 127.0.0.1", "port 29500 of node0"))
    command = "distill … --ranks 1 --nnodes 2 --node-rank 0 --rendezvous node0:29500"
    reliability("Many ranks", "the port is taken", command, shown)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--ranks", 2, "--node-rank", 1), "are for --nnodes"),
        (("--ranks", 2, "--nnodes", 2), "needs --node-rank and --rendezvous"),
        (("--nnodes", 2, "--node-rank", 2, "--rendezvous", "a:1"), "from 0 to 1, not 2"),
        (("--nnodes", 2, "--node-rank", 1, "--rendezvous", "a"), "HOST:PORT"),
        (("--nnodes", 2, "--node-rank", 1, "--rendezvous", "a:0"), "HOST:PORT"),
        (("--max-restarts", 3), "for --ranks of 2 or more"),
        (("--ranks", 2, "--device", "cuda:1"), "is one device"),
        (("--ranks", 100_000), "processes a core"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_starts_that_make_no_sense(
    args: tuple[object, ...], words: str, here: Path, distill: Distill
) -> None:
    outcome = distill("teacher", "train", "--data", "digits", "--out", "t", *args)
    assert outcome.code == 2, outcome.err
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not list(here.iterdir())


def test_restarts_need_a_folder(here: Path, distill: Distill) -> None:
    outcome = distill("teacher", "train", "--data", "digits", "--ranks", 2, "--max-restarts", 3)
    assert outcome.code == 2
    assert "--max-restarts needs --out" in outcome.err


def test_what_trains_nothing_has_no_ranks(here: Path, distill: Distill) -> None:
    assert distill("predict", "t", "x.png", "--ranks", 2).code == 2
