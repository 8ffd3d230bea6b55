"""Views, functions of (sample, view index) → pixels under a spec that fixes all the rest.

Shapes: B batch, C channels, H height, W width, D draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from weakref import WeakValueDictionary

import torch
from PIL import Image
from torch import Tensor

from distill_cli.counters import Purpose, draw, uniform
from distill_cli.data.ahead import copied_ahead
from distill_cli.data.augment import Augmentation, parse
from distill_cli.data.geometry import ResizedCrop
from distill_cli.data.library_transforms import LibraryTransform
from distill_cli.data.mixing import Cutmix, Mixer, Mixup
from distill_cli.data.read_views import read_views
from distill_cli.data.split_images import ImageFiles, Images, to_batch, to_pictures
from distill_cli.data.workers import stream
from distill_cli.types import ViewSpec

# Rows and the view of each, int64 on the CPU.
Request = tuple[Tensor, Tensor]
# Batches whose random numbers are hashed together: small tensors cost more to start than to hash.
TOGETHER = 64
# Seeds under which a library transform is tried out: some fail, or change the size, only sometimes.
TRIES = 16


@dataclass(frozen=True, kw_only=True)
class ViewBatch:
    """Views of a batch.

    Attributes:
        images_BCHW: Images in [0, 1], un-normalised, fp32, on the device.
        partner_B: int64 row that each image was mixed with, on the CPU; None where none is mixed.
        share_B: Share of each image's own content, fp32, on the device; None where none is mixed.
        teacher_TCHW: What the teacher is shown in place of them; None where it is shown the same.
    """

    images_BCHW: Tensor
    partner_B: Tensor | None = None
    share_B: Tensor | None = None
    teacher_TCHW: Tensor | None = None


# Decoded splits on devices, which runs of several seeds share while any of them looks at them.
_PRESENT: WeakValueDictionary[tuple[int, int, str], Tensor] = WeakValueDictionary()


def _present(images_NCHW: Tensor, device: torch.device) -> Tensor:
    """The images on a device: one copy of those that lie in one place in memory."""
    if images_NCHW.device == device:
        return images_NCHW
    key = (images_NCHW.data_ptr(), images_NCHW.numel(), str(device))
    present = _PRESENT.get(key)
    if present is None:
        present = _PRESENT[key] = images_NCHW.to(device)
    return present


class Views:
    """Views of a split.

    Every random number is a hash of (view seed, view, sample key, draw), so that a view does not
    depend on its batch. Work on single images (reading files, library transforms) is done first, by
    worker processes; work on whole batches follows on the device.

    Args:
        images: The split.
        spec: The view spec.
        device: Device that makes the views and holds a decoded split.
        workers: Processes for the work on single images.
        rows: int64 rows that are mixed in pairs; ignored where the spec does not mix.
        stream: The stream that they are drawn from; None for the one that caches are made from. Two
            kinds of views of one stream crop and flip a sample alike.
    """

    def __init__(
        self,
        images: Images,
        spec: ViewSpec,
        device: torch.device,
        *,
        workers: int = 0,
        rows: Tensor | None = None,
        stream: Purpose | None = None,
    ) -> None:
        self.seed = spec.seed if stream is None else int(draw(spec.seed, stream))
        self.spec, self.device, self.images, self.workers = spec, device, images, workers
        # Metal lacks fp64, the type of random numbers and positions.
        self.maker = torch.device("cpu") if device.type == "mps" else device
        steps = [parse(name, min(spec.height, spec.width)) for name in spec.augment]
        self.mixer = self._mixer(steps, rows)
        self.steps = [step for step in steps if not isinstance(step, Mixup | Cutmix)]
        wanted = [
            step.draws if not isinstance(step, LibraryTransform) else 0 for step in self.steps
        ]
        self.columns = [sum(wanted[:index]) for index in range(len(wanted) + 1)]
        self.per_image_steps = _per_image_steps(self.steps, files=isinstance(images, ImageFiles))

    @cached_property
    def images_NCHW(self) -> Tensor:
        """The decoded split on the device; moved there for the first view, in a dry run never."""
        assert not isinstance(self.images, ImageFiles), "files are read by workers"
        return _present(self.images.images_NCHW, self.maker)

    def try_out(self) -> None:
        """Applies the library transforms to an empty image, so that they fail before a training.

        Raises:
            UsageError: One of them fails on images of this size and colour.
        """
        size = (self.spec.width, self.spec.height)
        blank = Image.new("L" if self.spec.channels == 1 else "RGB", size)
        for step in self.steps:
            if isinstance(step, LibraryTransform):
                for seed in range(TRIES):
                    step(blank, seed)

    @property
    def by_workers(self) -> bool:
        """Whether some of the work is done image by image."""
        return self.per_image_steps > 0 or isinstance(self.images, ImageFiles)

    def _mixer(self, steps: Sequence[object], rows: Tensor | None) -> Mixer | None:
        mixup = next((step for step in steps if isinstance(step, Mixup)), None)
        cutmix = next((step for step in steps if isinstance(step, Cutmix)), None)
        if mixup is None and cutmix is None:
            return None
        assert rows is not None, "mixing needs the rows to pair"
        return Mixer(mixup=mixup, cutmix=cutmix, seed=self.seed, rows=rows, key_N=self.images.key_N)

    def batch(self, index_B: Tensor, view_B: Tensor) -> ViewBatch:
        """The views of one request."""
        return next(self.stream([(index_B, view_B)], workers=0))

    def stream(
        self, requests: Sequence[Request], *, workers: int | None = None
    ) -> Iterator[ViewBatch]:
        """The views of many requests, in order; the next ones are prepared meanwhile.

        Args:
            requests: int64 rows of the split and the view of each, on the CPU.
            workers: Processes; the views' own number by default.
        """
        whole = [self._with_partners(*request) for request in requests]
        if self.by_workers:
            pictures = self.pictures([request[:2] for request in whole], workers=workers)
            parts = copied_ahead(pictures, self.maker)
        else:
            # index_select copies whole rows: many times faster than indexing on uint8.
            parts = (
                self.images_NCHW.index_select(0, index_B.to(self.maker)) for index_B, _, _ in whole
            )
        draws = self._draws([(index_B, view_B) for index_B, view_B, _ in whole])
        for request, (_, _, partner_B), images_BCHW, uniform_BD in zip(
            requests, whole, parts, draws, strict=True
        ):
            images_BCHW = self.changed(images_BCHW, uniform_BD.to(self.maker), self.per_image_steps)
            yield self._finished(*request, partner_B, images_BCHW / 255)

    def pictures(
        self, requests: Sequence[Request], *, workers: int | None = None
    ) -> Iterator[Tensor]:
        """What is done image by image, of many requests in order: uint8 images on the CPU.

        Args:
            requests: int64 rows of the split and the view of each, on the CPU.
            workers: Processes; the views' own number by default.
        """
        return stream(
            partial(self._pictures),
            list(requests),
            workers=self.workers if workers is None else workers,
            pin=self.device.type == "cuda",
        )

    def _with_partners(self, index_B: Tensor, view_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The request, and behind it any partners that do not stand next to their images."""
        if self.mixer is None:
            return index_B, view_B, index_B
        partner_B = self.mixer.partners(index_B, view_B)
        # A neighbour that is the partner's row in another view has other pixels than the partner.
        paired = len(index_B) % 2 == 0 and torch.equal(neighbours(view_B), view_B)
        if paired and torch.equal(neighbours(index_B), partner_B):
            return index_B, view_B, partner_B
        return torch.cat([index_B, partner_B]), torch.cat([view_B, view_B]), partner_B

    def _finished(
        self, index_B: Tensor, view_B: Tensor, partner_B: Tensor, images_BCHW: Tensor
    ) -> ViewBatch:
        images_BCHW = images_BCHW.contiguous().to(self.device)
        if self.mixer is None:
            return ViewBatch(images_BCHW=images_BCHW)
        first_BCHW, others_BCHW = images_BCHW[: len(index_B)], images_BCHW[len(index_B) :]
        others_BCHW = others_BCHW if len(others_BCHW) else neighbours(first_BCHW)
        sides = (self.spec.height, self.spec.width)
        plan = self.mixer.plan(index_B, partner_B, view_B, *sides).to(self.device)
        mixed_BCHW = plan.mixed(first_BCHW, others_BCHW)
        return ViewBatch(images_BCHW=mixed_BCHW, partner_B=partner_B, share_B=plan.share_B)

    def _draws(self, requests: Sequence[Request]) -> Iterator[Tensor]:
        """Uniform numbers (B, D) of each request, hashed for many requests at once."""
        if self.per_image_steps == len(self.steps):
            yield from (torch.empty(0) for _ in requests)
            return
        for start in range(0, len(requests), TOGETHER):
            group = requests[start : start + TOGETHER]
            index, view = (torch.cat(parts) for parts in zip(*group, strict=True))
            yield from self._uniform(index, view).split([len(index_B) for index_B, _ in group])

    def _uniform(self, index_B: Tensor, view_B: Tensor) -> Tensor:
        return self.uniform(self.images.key_N[index_B], view_B)

    def uniform(self, key_B: Tensor, view_B: Tensor) -> Tensor:
        """The numbers (B, D) of all steps of samples by their keys, drawn where these lie."""
        numbers = torch.arange(self.columns[-1], device=key_B.device)
        words = (view_B[:, None], key_B[:, None], numbers)
        return uniform(draw(self.seed, Purpose.AUGMENT, *words))

    def changed(
        self, images_BCHW: Tensor, uniform_BD: Tensor, first: int, last: int | None = None
    ) -> Tensor:
        """Batched steps `first` … `last`; `uniform_BD` has the numbers of all steps."""
        spans = list(zip(self.steps, pairwise(self.columns), strict=True))[first:last]
        for step, (start, stop) in spans:
            assert not isinstance(step, LibraryTransform), "done image by image"
            images_BCHW = step(images_BCHW, uniform_BD[:, start:stop])
        return images_BCHW

    def _pictures(self, request: Request) -> Tensor:
        """Images after the steps on single images: uint8 (B, C, H, W) on the CPU."""
        index_B, view_B = request
        uniform_BD = self._uniform(index_B, view_B)
        done = 0
        if isinstance(self.images, ImageFiles):
            first = self.steps[0] if self.steps else None
            crop = first if isinstance(first, ResizedCrop) else None
            images_BCHW = read_views(self.images, index_B, crop, uniform_BD)
            done = int(crop is not None)
        else:
            images_BCHW = self.images.images_NCHW[index_B]
        for number in range(done, self.per_image_steps):
            step = self.steps[number]
            if isinstance(step, LibraryTransform):
                words = (view_B, self.images.key_N[index_B], number)
                seeds = draw(self.seed, Purpose.LIBRARY, *words) & ((1 << 63) - 1)
                pictures = zip(to_pictures(images_BCHW), seeds.tolist(), strict=True)
                images_BCHW = to_batch([step(picture, seed) for picture, seed in pictures])
            else:
                images_BCHW = self.changed(images_BCHW, uniform_BD, number, number + 1)
        return images_BCHW


def _per_image_steps(steps: Sequence[Augmentation | LibraryTransform], *, files: bool) -> int:
    """Number of leading steps on single images, up to the last step that needs single images."""
    last = max((i + 1 for i, s in enumerate(steps) if isinstance(s, LibraryTransform)), default=0)
    return max(last, int(files and bool(steps) and isinstance(steps[0], ResizedCrop)))


def neighbours(element_B: Tensor) -> Tensor:
    """The other element of the pair of each element."""
    other_B: Tensor = element_B.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return other_B
