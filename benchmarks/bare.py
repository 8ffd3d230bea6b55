"""Loops as somebody would write them by hand who wants nothing but speed.

They take the fast kernels too (fused optimiser, batched augmentation, autocast as here): what is
compared is what a framework costs, not what a slow loop lacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

Autocast = Callable[[], AbstractContextManager[Any]]


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    device = next(net.parameters()).device.type
    return torch.optim.SGD(
        net.parameters(),
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=True,
        fused=device in ("cpu", "cuda"),
    )


def crop(images: Tensor, pad: int) -> Tensor:
    """Random crops of padded images, a whole batch at once."""
    batch, _, height, width = images.shape
    crops = F.pad(images, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    offset = torch.randint(2 * pad + 1, (2, batch), device=images.device)
    return crops[torch.arange(batch, device=images.device), :, offset[0], offset[1]]


def crop_and_flip(images: Tensor, pad: int) -> Tensor:
    """The same, and flips."""
    images = crop(images, pad)
    coin = torch.rand(len(images), 1, 1, 1, device=images.device)
    return torch.where(coin < 0.5, images.flip(-1), images)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Training:
    """Training on preloaded, normalised tensors; a turn is one epoch.

    Args:
        net: On its device.
        images: fp32, normalised, on the device.
        target: int64, on the device.
        batch_size: Images of a step.
        pad: Padding of random crops, with flips; 0 for none.
        autocast: Autocast context of the forward.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        target: Tensor,
        batch_size: int,
        pad: int,
        autocast: Autocast,
    ) -> None:
        self.net, self.images, self.target = net.train(), images, target
        self.batch_size, self.pad, self.autocast = batch_size, pad, autocast
        self.optimizer = sgd(net)

    def __call__(self) -> float:
        size, steps = self.batch_size, len(self.images) // self.batch_size
        start = time.perf_counter()
        order = torch.randperm(len(self.images), device=self.images.device)
        for step in range(steps):
            rows = order[step * size : (step + 1) * size]
            images = self.images.index_select(0, rows)
            if self.pad:
                images = crop_and_flip(images, self.pad)
            self.optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                logits = self.net(images)
            F.cross_entropy(logits.float(), self.target[rows]).backward()
            self.optimizer.step()
        synchronize(self.images.device)
        return steps * size / (time.perf_counter() - start)


class Captured(Training):
    """The same on a GPU with the whole step as one CUDA graph, as few would write it by hand.

    The order of an epoch lies on the device, a counter there says which batch is due, and the random
    numbers of crops and flips are CUDA's own.

    Args:
        loop: The arguments of `Training`.
        compile: Whether the network is compiled before, as `--compile` does it.
        flips: Whether crops come with flips.
    """

    def __init__(self, *loop: Any, compile: bool = False, flips: bool = True) -> None:
        super().__init__(*loop)
        images, batch_size = self.images, self.batch_size
        self.steps = len(images) // batch_size
        self.order = torch.zeros(self.steps, batch_size, dtype=torch.int64, device=images.device)
        self.position = torch.zeros(1, dtype=torch.int64, device=images.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.change = crop_and_flip if flips else crop
        if compile:
            self.net.compile()

    def _step(self) -> None:
        rows = self.order.index_select(0, self.position)[0]
        self.position += 1
        images = self.images.index_select(0, rows)
        if self.pad:
            images = self.change(images, self.pad)
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            logits = self.net(images)
        F.cross_entropy(logits.float(), self.target.index_select(0, rows)).backward()
        self.optimizer.step()

    def _capture(self) -> torch.cuda.CUDAGraph:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph

    def __call__(self) -> float:
        self.position.zero_()
        if self.graph is None:
            self.graph = self._capture()
        start = time.perf_counter()
        order = torch.randperm(len(self.images), device=self.images.device)
        self.order.copy_(order[: self.order.numel()].view_as(self.order))
        self.position.zero_()
        for _ in range(self.steps):
            self.graph.replay()
        synchronize(self.images.device)
        return self.order.numel() / (time.perf_counter() - start)


class Inference:
    """The least that a dump must do: views of all images once through the network."""

    def __init__(self, net: nn.Module, images: Tensor, batch_size: int, pad: int) -> None:
        self.net, self.images = net.eval(), images
        self.batch_size, self.pad = batch_size, pad

    @torch.no_grad()
    def __call__(self) -> float:
        start = time.perf_counter()
        logits = [
            self.net(crop_and_flip(images, self.pad))
            for images in self.images.split(self.batch_size)
        ]
        assert len(torch.cat(logits).cpu()) == len(self.images)
        return len(self.images) / (time.perf_counter() - start)


class CapturedInference(Inference):
    """The same on a GPU in 16 bits, views and network as one CUDA graph; logits come back at the end.

    Args:
        inference: The arguments of `Inference`.
        autocast: Autocast context of the forward.
    """

    def __init__(
        self, net: nn.Module, images: Tensor, batch_size: int, pad: int, autocast: Autocast
    ) -> None:
        super().__init__(net, images, batch_size, pad)
        self.autocast, device = autocast, images.device
        self.number = torch.arange(batch_size, device=device)
        self.first = torch.zeros(1, dtype=torch.int64, device=device)
        self.logits: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def _batch(self) -> None:
        rows = (self.first + self.number).clamp(max=len(self.images) - 1)
        self.first += self.batch_size
        images = crop_and_flip(self.images.index_select(0, rows), self.pad)
        with self.autocast():
            logits = self.net(images).half()
        if self.logits is None:
            self.logits = logits.new_empty(len(self.images), logits.shape[1])
        self.logits.index_copy_(0, rows, logits)

    @torch.no_grad()
    def __call__(self) -> float:
        if self.graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._batch()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._batch()
        start = time.perf_counter()
        self.first.zero_()
        for _ in range(-(-len(self.images) // self.batch_size)):
            self.graph.replay()
        assert self.logits is not None
        assert len(self.logits.cpu()) == len(self.images)
        return len(self.images) / (time.perf_counter() - start)


class Online:
    """Online distillation as research repositories have it: Pillow, a DataLoader, a live teacher.

    fp32 throughout, two workers, T = 4; images come from memory, as torchvision's CIFAR does.
    """

    def __init__(
        self,
        net: nn.Module,
        teacher: nn.Module,
        images: Tensor,
        target: Tensor,
        batch_size: int,
        device: torch.device,
    ) -> None:
        from torchvision import transforms

        change = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
            ]
        )
        arrays, labels = images.permute(0, 2, 3, 1).numpy(), target.tolist()

        class Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
            def __len__(self) -> int:
                return len(labels)

            def __getitem__(self, index: int) -> tuple[Tensor, int]:
                return change(Image.fromarray(arrays[index])), labels[index]

        self.loader = torch.utils.data.DataLoader(
            Pictures(), batch_size, shuffle=True, num_workers=2, drop_last=True
        )
        self.net, self.teacher, self.device = net.train(), teacher.eval(), device
        self.optimizer = sgd(net)

    def __call__(self) -> float:
        start, seen = time.perf_counter(), 0
        for images, target in self.loader:
            images, target = images.to(self.device), target.to(self.device)
            with torch.no_grad():
                said = F.softmax(self.teacher(images) / 4, dim=1)
            logits = self.net(images)
            soft = F.kl_div(F.log_softmax(logits / 4, dim=1), said, reduction="batchmean") * 16
            loss = 0.9 * soft + 0.1 * F.cross_entropy(logits, target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            seen += len(images)
        synchronize(self.device)
        return seen / (time.perf_counter() - start)


class Folder:
    """torchvision's ImageFolder and torch's DataLoader, as its examples have them."""

    def __init__(
        self,
        net: nn.Module,
        root: Path,
        batch_size: int,
        workers: int,
        device: torch.device,
        autocast: Autocast,
        samples: int,
    ) -> None:
        from torchvision import datasets, transforms

        normal = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        dataset = datasets.ImageFolder(
            str(root / "train"),
            transforms.Compose(
                [
                    transforms.RandomResizedCrop(224),
                    transforms.RandomHorizontalFlip(),
                    transforms.ToTensor(),
                    normal,
                ]
            ),
        )
        self.loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(dataset, range(samples)),
            batch_size,
            shuffle=True,
            num_workers=workers,
            drop_last=True,
            pin_memory=device.type == "cuda",
        )
        self.net, self.device, self.autocast = net.train(), device, autocast
        self.optimizer = sgd(net)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, target in self.loader:
            yield (
                images.to(self.device, non_blocking=True),
                target.to(self.device, non_blocking=True),
            )

    def __call__(self) -> float:
        start, seen = time.perf_counter(), 0
        for images, target in self._batches():
            self.optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                logits = self.net(images)
            F.cross_entropy(logits.float(), target).backward()
            self.optimizer.step()
            seen += len(images)
        synchronize(self.device)
        return seen / (time.perf_counter() - start)
