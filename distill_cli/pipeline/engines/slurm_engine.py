"""Slurm: tasks are the jobs of an array, submitted by submitit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distill_cli.errors import InternalError, UsageError, reason
from distill_cli.pipeline.engines.protocol import LOOK, Answer, Opens, Session, answered

# A job imports and opens everything anew: so many at most.
TASKS = 32
# How often a task is submitted again whose job failed.
RETRIES = 3
JOBS = Path("slurm-jobs")


class Submitted:
    """What a job does; submitit calls it, and `checkpoint` where Slurm is about to end the job."""

    def __init__(self, opens: Opens) -> None:
        self.opens = opens

    def __call__(self, task: Any) -> Answer:
        """Opens what the task needs, and does it."""
        job = os.environ.get("SLURM_JOB_NODELIST")
        return answered(lambda given: self.opens()(given), task, job)

    def checkpoint(self, task: Any) -> Any:
        """The same again: what a task has stored, it does not make twice."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task)


class SlurmEngine:
    """The Slurm whose commands are on this machine's path.

    Args:
        options: sbatch's options, with underscores: partition, time (minutes), gpus_per_node, …;
            `workers` bounds how many jobs run at a time.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)
        self.workers = self.options.pop("workers", None)

    def task_count(self, units: int) -> int:
        """A few units a job."""
        return min(TASKS, units)

    @contextmanager
    def started(self, tell: Callable[[str], None]) -> Iterator[Session]:
        """Prepares to submit; jobs that are left over are cancelled."""
        try:
            import submitit
        except ImportError:
            raise UsageError(
                "--on slurm needs submitit, which is not installed here",
                hint="pip install 'distill-cli[slurm]'",
            ) from None
        if submitit.SlurmExecutor.affinity() < 0:
            raise UsageError("--on slurm: there is no srun here", hint="Start it on a login node")
        executor = submitit.SlurmExecutor(folder=JOBS / "%j")
        parallel = {} if self.workers is None else {"array_parallelism": self.workers}
        try:
            executor.update_parameters(**{"job_name": "distill", **self.options, **parallel})
        except Exception as error:
            raise UsageError(f"--engine-option: {reason(error)}") from None
        session = SlurmSession(executor, self.options)
        try:
            yield session
        finally:
            session.cancel()


class SlurmSession:
    """Jobs that were submitted.

    Args:
        executor: submitit's.
        options: sbatch's options.
    """

    def __init__(self, executor: Any, options: Mapping[str, Any]) -> None:
        self.executor, self.options = executor, options
        self.jobs: dict[int, Any] = {}

    def device(self, asked: str) -> str:
        """As it is asked for: Slurm shows a job the GPUs that it has."""
        if asked.startswith("cuda") and not any(
            "gpu" in f"{k}={v}" for k, v in self.options.items()
        ):
            raise UsageError(
                f"--device {asked}: the jobs have no GPU",
                hint="Say --engine-option gpus_per_node=1",
            )
        return asked

    def run(
        self,
        opens: Opens,
        tasks: Sequence[Any],
        *,
        done: Callable[[Any, Answer], None],
        look: Callable[[Sequence[Any]], None],
    ) -> None:
        """Submits an array of the tasks, and those whose jobs failed again."""
        tries = [0] * len(tasks)
        self._submit(opens, tasks, range(len(tasks)))
        while self.jobs:
            again: list[int] = []
            for number in [number for number, job in self.jobs.items() if job.done()]:
                answer = self._answer(self.jobs.pop(number), tries[number])
                if answer is None:
                    tries[number] += 1
                    again.append(number)
                else:
                    done(tasks[number], answer)
            if again:
                self._submit(opens, tasks, again)
            look([tasks[number] for number in self.jobs])
            time.sleep(LOOK)

    def cancel(self) -> None:
        """Cancels what is not done."""
        for job in self.jobs.values():
            with suppress(Exception):
                job.cancel(check=False)
        self.jobs.clear()

    def _submit(self, opens: Opens, tasks: Sequence[Any], numbers: Sequence[int]) -> None:
        try:
            jobs = self.executor.map_array(Submitted(opens), [tasks[number] for number in numbers])
        except Exception as error:
            raise UsageError(f"sbatch refuses the jobs: {reason(error)}") from None
        self.jobs |= dict(zip(numbers, jobs, strict=True))

    def _answer(self, job: Any, tries: int) -> Answer | None:
        """What became of a job's task; None where it is to be submitted again."""
        try:
            answer: Answer = job.result()
        except Exception as error:
            if tries < RETRIES:
                return None
            raise InternalError(
                f"job {job.job_id} failed, after {tries} others of the same task: {job.state}",
                hint=f"What was committed is intact. Its log: {job.paths.stderr}",
            ) from error
        return answer
