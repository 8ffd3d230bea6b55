"""The top-k codec: a row's likeliest classes, and what is known of the others together.

Shapes: N rows, K classes, J classes kept of each row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_cli.cache.rows import Layout, Rows, in_chunks, not_finite, refuse_bad

# Temperatures at which a row stores the mass of its tail.
TAIL_TEMPERATURES = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The J largest log-probabilities with their class ids, and the mass of all others.

    A row stores `log_probs`, at T = 1, fp16, falling; `ids`, in the smallest type that holds the
    class count; `tail`, the logit log(m/(1 − m)) of the mass m of the other K − J classes at each
    of `TAIL_TEMPERATURES`, fp16; and `slope`, that logit's derivative by 1/T at 1/T = 0, fp16:
    the mean logit of the tail less that of the J classes. The tail is shared out evenly over its
    classes; the rest of the mass goes to the J classes in proportion to p^(1/T). The result sums
    to 1 at every temperature.

    The logit at any other temperature: see `_log_odds`. FKD (Shen & Xing 2022, arXiv 2112.01528)
    and TinyViT (arXiv 2207.10666) keep the mass at T = 1 only, and a uniform tail softened from
    there is too heavy.

    Attributes:
        name: Name as the user spells it.
        kept: J.
        classes: K.
        sloped: Whether rows have a slope; those of format 1 have none.
        dense: False: the logits of the tail are lost.
    """

    name: str
    kept: int
    classes: int
    sloped: bool = True
    dense: bool = False

    @property
    def id_type(self) -> torch.dtype:
        """uint8 up to 256 classes, uint16 up to 65,536, else int32."""
        if self.classes <= 1 << 8:
            return torch.uint8
        return torch.uint16 if self.classes <= 1 << 16 else torch.int32

    def layout(self, rows: int) -> Layout:
        """The tensors `log_probs`, `ids` and `tail`, and `slope` where rows have one."""
        layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "log_probs": (torch.float16, (rows, self.kept)),
            "ids": (self.id_type, (rows, self.kept)),
            "tail": (torch.float16, (rows, len(TAIL_TEMPERATURES))),
        }
        return {**layout, "slope": (torch.float16, (rows,))} if self.sloped else layout

    def encode(self, logits_NK: Tensor) -> dict[str, Tensor]:
        """Chooses the largest; among equal ones the smaller id stands first."""
        refuse_bad(logits_NK)
        logits_NK = logits_NK.cpu()
        parts = [self._encoded(logits_NK[rows]) for rows in in_chunks(logits_NK)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _encoded(self, logits_NK: Tensor) -> dict[str, Tensor]:
        ids_NJ = self._largest(logits_NK)
        full_NK = logits_NK.double()
        log_probs_NK = F.log_softmax(full_NK, dim=-1)
        others_NK = full_NK.scatter(1, ids_NJ, -math.inf)
        kept_NJ = full_NK.gather(1, ids_NJ)
        tail = [
            torch.logsumexp(others_NK / t, dim=-1) - torch.logsumexp(kept_NJ / t, dim=-1)
            for t in TAIL_TEMPERATURES
        ]
        encoded = {
            "log_probs": _half(log_probs_NK.gather(1, ids_NJ)),
            "ids": ids_NJ.to(self.id_type),
            "tail": _half(torch.stack(tail, dim=1)),
        }
        if self.sloped:
            tail_mean_N = full_NK.scatter(1, ids_NJ, 0).sum(dim=-1) / (self.classes - self.kept)
            encoded["slope"] = _half(tail_mean_N - kept_NJ.mean(dim=-1))
        return encoded

    def _largest(self, logits_NK: Tensor) -> Tensor:
        """The ids of the J largest logits, falling; of equal ones the smallest ids."""
        ids_NJ = logits_NK.topk(self.kept, dim=-1).indices.sort(dim=-1).values
        values_NJ = logits_NK.gather(1, ids_NJ)
        order_NJ = values_NJ.sort(dim=-1, descending=True, stable=True).indices
        ids_NJ = ids_NJ.gather(1, order_NJ)
        # topk breaks ties arbitrarily; break them by class id.
        tied_N = (logits_NK >= values_NJ.amin(dim=-1, keepdim=True)).sum(dim=-1) > self.kept
        if tied_N.any():
            sorted_NK = logits_NK[tied_N].sort(dim=-1, descending=True, stable=True)
            ids_NJ[tied_N] = sorted_NK.indices[:, : self.kept]
        return ids_NJ

    def fault(self, rows: Rows) -> str | None:
        """A phrase about NaN, infinity or a class id beyond the class count; None without any."""
        ids_NJ = rows["ids"].numpy()
        if ids_NJ.size and not 0 <= int(ids_NJ.min()) <= int(ids_NJ.max()) < self.classes:
            return f"it names classes beyond {self.classes}"
        values = [name for name in self.layout(1) if name != "ids"]
        return next(filter(None, (not_finite(rows, name) for name in values)), None)

    def logits(self, rows: Rows) -> None:
        """None: the logits of the tail are lost."""

    def log_probs(
        self, rows: Rows, temperature: float, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The full distribution over K classes."""
        log_odds_N1 = self._log_odds(rows, 1 / temperature, dtype)[:, None]
        kept_NJ = F.log_softmax(rows["log_probs"].to(dtype) / temperature, dim=-1)
        kept_NJ = kept_NJ + F.logsigmoid(-log_odds_N1)
        other_N1 = F.logsigmoid(log_odds_N1) - math.log(self.classes - self.kept)
        return other_N1.repeat(1, self.classes).scatter(1, rows["ids"].long(), kept_NJ)

    def _log_odds(self, rows: Rows, inverse: float, dtype: torch.dtype) -> Tensor:
        """The logit of the tail's mass at s = 1/T, (N).

        Between the stored temperatures it is linear in s; below T = 1 the line of the last two goes
        on. Beyond T = 8 rows without a slope are linear in s up to the exact log((K − J)/J) at s = 0.
        """
        tail_NT = rows["tail"].to(dtype)
        if self.sloped and inverse < 1 / TAIL_TEMPERATURES[-1]:
            return self._log_odds_near_zero(rows, tail_NT, inverse)
        uniform = math.log((self.classes - self.kept) / self.kept)
        inverses = [0.0, *sorted(1 / t for t in TAIL_TEMPERATURES)]
        known = [torch.full_like(tail_NT[:, 0], uniform), *reversed(tail_NT.unbind(dim=1))]
        right = next((i for i, x in enumerate(inverses) if x >= inverse and i), len(inverses) - 1)
        left = right - 1
        share = (inverse - inverses[left]) / (inverses[right] - inverses[left])
        return known[left] + share * (known[right] - known[left])

    def _log_odds_near_zero(self, rows: Rows, tail_NT: Tensor, inverse: float) -> Tensor:
        """The logit of the tail's mass at s = 1/T below the least stored s₁, (N).

        The logit is B(s) − A(s), the log-sum-exp of s·log p over the tail less that over the J
        classes. A is known at every s. B is convex, and far smoother than the logit, in which a very
        sure teacher's A bends: B(0) = log(K − J), and its slope there is the tail's mean log p, the
        stored slope plus A's. B is the parabola with that value and slope through B(s₁). A class
        masked by −1e9 is in the slope and in nothing else: the parabola may not become steeper than
        the chord of B from s₁ to s₂, which bounds what lies left of s₁.
        """
        second, first = (1 / t for t in TAIL_TEMPERATURES[-2:])
        log_probs_NJ, empty = (
            rows["log_probs"].to(dtype=tail_NT.dtype),
            math.log(self.classes - self.kept),
        )

        def kept(s: float) -> Tensor:
            return torch.logsumexp(log_probs_NJ * s, dim=-1)

        at_first_N, at_second_N = tail_NT[:, -1] + kept(first), tail_NT[:, -2] + kept(second)
        chord_N = (at_first_N - empty) / first
        next_chord_N = (at_second_N - at_first_N) / (second - first)
        slope_N = rows["slope"].to(tail_NT.dtype) + log_probs_NJ.mean(dim=-1)
        slope_N = torch.maximum(slope_N, 2 * chord_N - next_chord_N)
        bend_N = (slope_N - chord_N) * (1 - inverse / first)
        return empty + inverse * (chord_N + bend_N) - kept(inverse)


def _half(values: Tensor) -> Tensor:
    """fp16; values beyond its range (a class masked by −1e9) become its bound."""
    limit = torch.finfo(torch.float16).max
    return values.clamp(-limit, limit).half().contiguous()
