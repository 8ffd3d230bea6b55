"""Rounds of self-training: each network labels images for the next one to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from distill_cli.data.dataset import Dataset
from distill_cli.data.label_files import Named, read_corrections, read_probabilities
from distill_cli.errors import ArtifactError, UsageError
from distill_cli.evaluate import check_answers, logits_by_ranks
from distill_cli.files import write_json, write_text
from distill_cli.models import load_model
from distill_cli.pipeline.inputs.data import OpenData
from distill_cli.pipeline.run.machine import runtime_of
from distill_cli.pipeline.run.round_labels import (
    Answers,
    in_words,
    unlabelled_rows,
)
from distill_cli.readers.json_values import read_json
from distill_cli.recipe.base import Recipe, TrainRecipe
from distill_cli.recipe.schema import SelfTrainRecipe
from distill_cli.recipe.seeds import SEEDS
from distill_cli.recipe.stage import Stage
from distill_cli.recipe.stages import stages_of
from distill_cli.report.rounds import ROUNDS, Round, RoundTable, read_rounds
from distill_cli.report.run_folder import RESULT
from distill_cli.training.events import Silent, Sink

OF_A_CHOICE = frozenset(("threshold", "balance"))


class _Reading(Silent):
    """Shows how far images are read, and nothing else."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def reading(self, done: int, total: int) -> None:
        """As the sink does."""
        self.sink.reading(done, total)


def rounds_for(recipe: TrainRecipe, stages: Sequence[Stage], opening: OpenData) -> Rounds | None:
    """The rounds that these stages are; None where they are none."""
    if not isinstance(recipe, SelfTrainRecipe):
        return None
    return Rounds(recipe=recipe, stages=stages, opening=opening)


def open_to_choice(recipe: TrainRecipe, out: Path) -> frozenset[str]:
    """Keys that may change when rounds go on: those of a choice that no round has made yet.

    Args:
        recipe: Of them all; those of several seeds are as they were begun.
        out: Their folder.
    """
    of_seeds = getattr(recipe, "seeds", None) is not None or (out.parent / SEEDS).is_file()
    if not isinstance(recipe, SelfTrainRecipe) or of_seeds:
        return frozenset()
    lists = [stage.list_path for stage in stages_of(recipe, out)]
    begun = any(path is not None and path.is_file() for path in lists)
    return frozenset() if begun else OF_A_CHOICE


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """The rounds of a self-training.

    Attributes:
        recipe: Of them all.
        stages: A run a round.
        opening: Opens data.
    """

    recipe: SelfTrainRecipe
    stages: Sequence[Stage]
    opening: OpenData

    @property
    def out(self) -> Path:
        """The folder of them all, which is the last one's."""
        return self.stages[-1].out

    def check(self, sink: Sink, *, glance: bool = False) -> None:
        """Refuses data in which every image has a label, before anything is trained.

        Args:
            sink: Is told what data there are.
            glance: For a dry run: without pixels.

        Raises:
            UsageError: With what would give it images without.
        """
        # Of hidden labels alone, the first round says the same of its data.
        beside = self.recipe.unlabelled is not None or self.recipe.transductive
        dataset = self._opened(sink if beside else _Reading(sink), glance=glance)
        if dataset.multi_label:
            raise UsageError(
                f"several labels may apply to an image of {dataset.spec}, and self-train gives each one"
            )
        if not len(unlabelled_rows(dataset)):
            raise UsageError(
                f"every image of {dataset.spec} has a label, and self-train gives labels to those that have none",
                hint="Give --unlabelled DATA; or hide labels, as --labels-fraction 0.1; or, to learn "
                "from the test images, --transductive",
            )
        if self.recipe.transductive:
            sink.message(
                "transductive: labels are made for the test images themselves, and learnt; from round 2 on, "
                "test figures are of images that were seen"
            )

    def label(self, number: int, sink: Sink) -> None:
        """Has the round before say which images a round learns from, unless it has said so.

        Args:
            number: The round's; the first one learns from labels alone.
            sink: Is told how many there are.

        Raises:
            ArtifactError: It is sure of none.
        """
        target = self.stages[number - 1].list_path
        if target is None:
            return
        ranks = runtime_of(self.recipe).ranks
        # The list comes last: a round that has it has its row.
        if ranks.led(lambda: len(self._table().rounds) >= number and target.is_file()):
            return
        dataset = self._opened(Silent())
        logits_UK = self._asked(number - 1, dataset, sink)
        row, text = ranks.together(lambda: self._decided(number, dataset, logits_UK))

        def written() -> None:
            first = Round(round=1, run=self._name(1), labelled=row.labelled)
            earlier = self._table().rounds[: number - 1] or (first,)
            self._write([*earlier, row])
            write_text(target, text)

        ranks.led(written)
        sink.message(in_words(row, self.recipe.threshold))

    def finish(self) -> None:
        """Writes rounds.json with what each round reached."""
        runtime_of(self.recipe).ranks.led(lambda: self._write(self._table().rounds))

    def rehearsed(self, number: int) -> OpenData:
        """Opens the data of a round for a dry run: where its labels are not made yet, with some for all images."""
        target = self.stages[number - 1].list_path
        if target is None or target.is_file():
            return self.opening

        def opened(recipe: Recipe, sink: Sink, *, glance: bool = False) -> Dataset:
            assert isinstance(recipe, TrainRecipe), "a round's"
            dataset = self.opening(self._plain(recipe), sink, glance=glance)
            if self.recipe.soft:
                return dataset
            label_N = dataset.train.label_N.clone()
            label_N[unlabelled_rows(dataset)] = 0
            return replace(dataset, train=replace(dataset.train, label_N=label_N))

        return opened

    def _opened(self, sink: Sink, *, glance: bool = False) -> Dataset:
        """The data without any round's labels."""
        ranks, recipe = runtime_of(self.recipe).ranks, self._plain(self.stages[1].recipe)
        return ranks.together(
            lambda: ranks.first_on_machine(lambda: self.opening(recipe, sink, glance=glance))
        )

    def _plain(self, recipe: TrainRecipe) -> TrainRecipe:
        """A round's recipe with the lists that a person gave, in place of the round's."""
        given = self.stages[0].recipe
        lists = {"relabel": given.relabel, "unlabelled_list": given.unlabelled_list}
        return recipe.model_copy(update=lists)

    def _asked(self, number: int, dataset: Dataset, sink: Sink) -> Tensor:
        """A round's logits (U, K) on the images without a label, as they are."""
        runtime, folder = runtime_of(self.recipe), self.stages[number - 1].out
        network = runtime.ranks.together(lambda: load_model(folder / "model", tell=sink.message))
        images = dataset.train.take(unlabelled_rows(dataset))
        network = network.to(runtime.device).eval()
        logits_UK = logits_by_ranks(network, images, runtime.device, runtime.ranks)
        runtime.ranks.together(lambda: check_answers(folder, logits_UK))
        return logits_UK

    def _decided(self, number: int, dataset: Dataset, logits_UK: Tensor) -> tuple[Round, str]:
        """A round's row, and its list."""
        recipe, answers = self.recipe, Answers.of(dataset, logits_UK)
        kept_U = answers.chosen(recipe.threshold, balance=recipe.balance)
        if not bool(kept_U.any()):
            raise ArtifactError(
                answers.unsure(number - 1, recipe.threshold), hint=self._lower(number)
            )
        row = answers.round(number, self._name(number), recipe.threshold, kept_U)
        return row, answers.listed(kept_U, self._given())

    def _lower(self, number: int) -> str:
        """The way on where a round is sure of no image."""
        if number == 2 and not (self.out.parent / SEEDS).is_file():
            return "Go on with a lower --threshold and --resume, which keeps round 1"
        return "Begin anew with a lower --threshold or more --epochs, in another --out"

    def _given(self) -> dict[tuple[Named, str], str]:
        """The labels of the list that was given, and a round's stands for, with probabilities of a network's."""
        given = self.stages[0].recipe.relabel
        if self.recipe.soft or given is None:
            return {}
        made = read_probabilities(Path(given))
        return {row: made.get(row, "") for row in read_corrections(Path(given))}

    def _name(self, number: int) -> str:
        return self.stages[number - 1].out.relative_to(self.out).as_posix()

    def _table(self) -> RoundTable:
        recipe, kept = self.recipe, read_rounds(self.out)
        return RoundTable(
            transductive=recipe.transductive,
            threshold=recipe.threshold,
            balance=recipe.balance,
            soft=recipe.soft,
            rounds=() if kept is None else kept.rounds,
        )

    def _write(self, rounds: Sequence[Round]) -> None:
        rows = []
        for row, stage in zip(rounds, self.stages, strict=False):
            done = (stage.out / RESULT).is_file()
            rows.append(row.with_figures(read_json(stage.out / RESULT) if done else {}))
        write_json(self.out / ROUNDS, replace(self._table(), rounds=tuple(rows)).to_json())
