"""`python -m benchmarks.mutations [NUMBER…]`: thirty one-line faults that the tests have to catch.

Each fault is put into a copy of the project, and the tests that are about that line are run until
one fails. A fault that they let pass is printed, and the exit code is 1. Some minutes on two
processors; run it before and after a change that moves code or tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("distill_cli", "tests", "benchmarks", "docs", "recipes", "pyproject.toml", "README.md")


class Mutation(NamedTuple):
    """A fault.

    Attributes:
        module: The file it is put into, below distill_cli/.
        line: Text that stands there exactly once.
        fault: The text in its place.
        tests: Files or folders below tests/ of which one has to fail.
    """

    module: str
    line: str
    fault: str
    tests: str


MUTATIONS = (
    # Losses: scale, index, axis, sign, mask, gradient, bound.
    Mutation(
        "losses/kd.py",
        "return divergence_BK.sum(dim=-1) * temperature**2",
        "return divergence_BK.sum(dim=-1) * temperature",
        "losses",
    ),
    Mutation(
        "losses/other_classes.py",
        "(rank_R >= target_B.clamp(min=0)",
        "(rank_R > target_B.clamp(min=0)",
        "losses",
    ),
    Mutation(
        "losses/standardise.py",
        "logits_BK.mean(dim=-1, keepdim=True)",
        "logits_BK.mean(dim=0, keepdim=True)",
        "losses",
    ),
    Mutation(
        "losses/soft_targets.py",
        "return -(target_BK.detach()",
        "return (target_BK.detach()",
        "losses",
    ),
    Mutation(
        "objectives/tfkd_reg.py",
        "divergence_BK.sum(dim=-1).masked_fill(target_B == UNLABELLED, 0)",
        "divergence_BK.sum(dim=-1)",
        "losses",
    ),
    Mutation(
        "objectives/knowledge_refinery.py", "log_probs_BR.detach()),", "log_probs_BR),", "losses"
    ),
    Mutation("objectives/disturb_label.py", "(whether_B < alpha)", "(whether_B > alpha)", "losses"),
    # Objectives: divisor, share, threshold.
    Mutation(
        "objectives/compose.py",
        "return term.loss_B.sum() / batch.labelled",
        "return term.loss_B.sum() / batch.samples",
        "objectives",
    ),
    Mutation(
        "objectives/base.py",
        "(1 - share_B) * loss(batch.mixing.target_B)",
        "share_B * loss(batch.mixing.target_B)",
        "objectives",
    ),
    Mutation("objectives/d2l.py", "> 2 * spread", "> spread", "objectives"),
    # Adapters and teachers.
    Mutation(
        "adapters/category_structure.py",
        "kept_KD + (1 - self.momentum) * mean_KD",
        "kept_KD + self.momentum * mean_KD",
        "objectives",
    ),
    Mutation("teachers/gate.py", "LEVEL = 0.01", "LEVEL = 0.5", "teachers cli/test_modes.py"),
    Mutation(
        "teachers/mixture.py",
        "bounds_M[:-1].contiguous().to(device)",
        "bounds_M[1:].contiguous().to(device)",
        "teachers",
    ),
    # Training.
    Mutation("training/rollback.py", 'kept["lr"] = group["lr"]', "pass", "training"),
    Mutation(
        "training/update.py",
        "optimisation.clip(self.network.net)",
        "pass",
        "training cli/test_train.py",
    ),
    Mutation(
        "training/state.py",
        "list(held_out.rank) <= self.best_rank",
        "list(held_out.rank) < self.best_rank",
        "training cli/test_train.py",
    ),
    # Data.
    Mutation(
        "data/splits.py",
        "min(max(1, round(rows * fraction)), rows - 1)",
        "max(1, round(rows * fraction))",
        "data",
    ),
    Mutation("data/order.py", "order[round_S - first,", "order[round_S * 0,", "data/test_order.py"),
    Mutation(
        "data/mixing.py",
        "torch.minimum(index_B, partner_B)",
        "index_B",
        "data",
    ),
    Mutation(
        "counters.py",
        "(word >> bits) & ((1 << (64 - bits)) - 1)",
        "word >> bits",
        "test_counters.py",
    ),
    # Cache.
    Mutation("cache/reader.py", "if actual != expected:", "if False:", "cache cli/test_cache.py"),
    Mutation(
        "cache/topk.py",
        "F.logsigmoid(log_odds_N1) - math.log(self.classes - self.kept)",
        "F.logsigmoid(log_odds_N1) - math.log(self.classes)",
        "cache",
    ),
    # Figures and models.
    Mutation(
        "metrics.py",
        "labelled_N = target_N >= 0\n    logits_NK, target_N = logits_NK[labelled_N].double(), target_N[labelled_N]\n    samples",
        "labelled_N = target_N >= -1\n    logits_NK, target_N = logits_NK[labelled_N].double(), target_N[labelled_N]\n    samples",
        "test_metrics.py",
    ),
    Mutation(
        "models/artifact.py", "if stored != needed:", "if False:", "models cli/test_faults.py"
    ),
    # Recipes and reports.
    Mutation(
        "recipe/parsing.py",
        "not 1 <= int(match[1]) <= int(match[2])",
        "not 1 <= int(match[1])",
        "recipe cli/test_cache.py",
    ),
    Mutation(
        "report/verdict.py",
        '"helped" if high < 0 else',
        '"helped" if low < 0 else',
        "report/test_verdict.py",
    ),
    # From a recipe to a run.
    Mutation(
        "pipeline/objective/build.py",
        "hard = (1 - start, 1 - end) if summing",
        "hard = (1 - start, 1 - start) if summing",
        "pipeline objectives cli/test_train.py",
    ),
    Mutation(
        "pipeline/folders.py",
        "if holds_run(out) and not (resume or overwrite):",
        "if False:",
        "cli/test_paths.py cli/test_train.py cli/test_faults.py",
    ),
    Mutation(
        "training/checkpoint.py",
        'if content["key"] not in keys:',
        "if False:",
        "training pipeline cli/test_train.py",
    ),
    # The command line.
    Mutation("errors.py", "exit_code = 5", "exit_code = 3", "cli/test_train.py cli/test_verbs.py"),
)


def caught(mutation: Mutation) -> str:
    """The test that fails with the fault in place; empty where none does."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for entry in COPIED:
            if (ROOT / entry).is_dir():
                shutil.copytree(
                    ROOT / entry, copy / entry, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(ROOT / entry, copy / entry)
        path = copy / "distill_cli" / mutation.module
        text = path.read_text()
        assert text.count(mutation.line) == 1, f"{mutation.module}: {mutation.line!r}"
        path.write_text(text.replace(mutation.line, mutation.fault))
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "--tb=no"]
        result = subprocess.run(
            [*command, *(f"tests/{test}" for test in mutation.tests.split())],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    if result.returncode == 0:
        return ""
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert failed, result.stdout + result.stderr
    return failed[0].removeprefix("FAILED ").split(" - ")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "numbers", nargs="*", type=int, help="of the faults, from 1; all by default"
    )
    numbers = parser.parse_args().numbers or range(1, len(MUTATIONS) + 1)
    chosen = [MUTATIONS[number - 1] for number in numbers]
    missed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, mutation, test in zip(numbers, chosen, pool.map(caught, chosen), strict=True):
            missed += not test
            print(f"{number:2}  {mutation.module:28}  {test or 'NOT CAUGHT'}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults are caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
