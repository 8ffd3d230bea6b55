"""Live teachers: networks that run while the student trains."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch

from distill_cli.data.split_images import Images
from distill_cli.evaluate import logits_by_ranks
from distill_cli.models import Network, network_fingerprint
from distill_cli.models.sharded import shard
from distill_cli.models.taps import signals_of
from distill_cli.ranks import ALONE, Ranks
from distill_cli.runtime import TeacherPrecision, autocast
from distill_cli.teachers.signals import DenseSignals, FeatureSignals
from distill_cli.types import BIAS, Batch, Need, TeacherSignals


class LiveTeacher:
    """A frozen network in eval mode, with its own normalisation.

    Args:
        network: The network; it is moved to `device` and frozen.
        device: Device that it computes on.
        precision: Its arithmetic; logits are rounded to fp32, as a cache stores them. In 16 bits the
            weights stay fp32, and lie channels last.
        class_names: Classes of the logits, in this order; the network's classes by default.
        columns: The network's output for each of `class_names`; all outputs by default.
        in_parts: Whether its weights lie in parts on the ranks, which then ask it all at once.
    """

    offers = frozenset({Need.LOGITS, Need.FEATURES})

    def __init__(
        self,
        network: Network,
        device: torch.device,
        precision: TeacherPrecision = "fp32",
        *,
        class_names: Sequence[str] | None = None,
        columns: Sequence[int] | None = None,
        in_parts: bool = False,
    ) -> None:
        self.fingerprint = network_fingerprint(network)
        self.class_names = network.class_names if class_names is None else tuple(class_names)
        self.columns: torch.Tensor | None = None
        if columns is not None:
            assert len(columns) == len(self.class_names), "one output a class"
            self.columns = torch.tensor(columns, dtype=torch.int64, device=device)
            mapped = f"{self.fingerprint} {list(columns)}"
            self.fingerprint = blake2b(mapped.encode(), digest_size=16).hexdigest()
        self.architecture = network.architecture
        self.targets = network.targets
        self.precision: TeacherPrecision = precision
        self.dtype = torch.float64 if precision == "fp64" else torch.float32
        self.device = device
        self.in_parts = in_parts
        network = network.to(dtype=self.dtype).eval().requires_grad_(False)
        self.network = shard(network, device) if in_parts else network.to(device)
        if precision in ("bf16", "fp16") and not in_parts:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.taps: tuple[str, ...] = ()
        self.stops = False

    def watch(self, taps: Sequence[str], *, stop: bool = False) -> None:
        """Adds the outputs of these layers to its signals; with `stop` they are all it gives."""
        # What is gathered for a forward is let go at its end.
        self.taps, self.stops = tuple(taps), stop and not self.in_parts

    def compile(self) -> None:
        """Has its forward compiled when it is first asked."""
        self.network.net.compile()

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """fp32 logits (B, K) of images in [0, 1]."""
        return self._logits(images_BCHW, self.precision)

    def row_logits(self, images_BCHW: torch.Tensor, index_B: torch.Tensor) -> torch.Tensor:
        """The same of views of rows of train, whichever they are."""
        return self.logits(images_BCHW)

    def fp32_logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The same in fp32, whatever its arithmetic in 16 bits is."""
        return self._logits(images_BCHW, "fp32")

    def _logits(self, images_BCHW: torch.Tensor, precision: TeacherPrecision) -> torch.Tensor:
        with torch.no_grad(), autocast(self.device, precision):
            logits_BK: torch.Tensor = self.network(images_BCHW.to(self.dtype))
        return self._of_classes(logits_BK).float()

    def split_logits(self, split: str, images: Images, *, ranks: Ranks = ALONE) -> torch.Tensor:
        """fp32 logits (N, K) on the CPU of a whole split, `val` or `test`.

        Args:
            split: Its name.
            images: Its images, which are computed.
            ranks: Those that compute some of them each.
        """
        return logits_by_ranks(self.logits, images, self.device, ranks)

    def _of_classes(self, logits_BK: torch.Tensor) -> torch.Tensor:
        return logits_BK if self.columns is None else logits_BK.index_select(1, self.columns)

    def signals(self, batch: Batch) -> TeacherSignals:
        """Its logits on the batch's views, and the outputs of the watched layers."""
        if not self.taps:
            return DenseSignals(batch.spread(self.logits(batch.for_teacher)))
        with torch.no_grad(), autocast(self.device, self.precision):
            images_BCHW = batch.for_teacher.to(self.dtype)
            signals = signals_of(self.network, images_BCHW, self.taps, stop=self.stops)
        if signals.logits is None:
            return FeatureSignals(signals.features)
        features = dict(signals.features)
        if BIAS in features:
            # One channel for each class, like the columns of the logits.
            features[BIAS] = self._of_classes(features[BIAS])
        return DenseSignals(self._of_classes(signals.logits), features)
