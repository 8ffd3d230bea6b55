"""Large images: read from their files, by workers, and the same whoever reads them."""

from __future__ import annotations

import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_cli.data.dataset import Dataset, open_dataset
from distill_cli.data.split_images import ImageFiles
from distill_cli.data.views import Views
from distill_cli.data.workers import stream
from distill_cli.errors import ArtifactError, InternalError, UsageError
from distill_cli.types import ViewSpec

CPU = torch.device("cpu")


def picture(seed: int, width: int = 180, height: int = 150, grey: bool = False) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return image.convert("L") if grey else image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of two classes, of several sizes, a grey one among them; two to test."""
    root = tmp_path_factory.mktemp("large") / "data"
    for number in range(12):
        split = "train" if number < 10 else "test"
        path = root / split / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, 140 + 9 * number, 200 - 5 * number, number == 3).save(path, quality=95)
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return open_dataset(str(folder), size=136)


def views(data: Dataset, *augment: str, workers: int = 0, size: int = 136) -> Views:
    spec = ViewSpec(augment=augment, channels=3, height=size, width=size, seed=0, source="files")
    return Views(data.train, spec, CPU, workers=workers, rows=data.fit_rows)


def test_the_rule_looks_at_the_size_of_a_view(folder: Path, data: Dataset) -> None:
    assert data.from_files
    assert not open_dataset(str(folder), size=128).from_files
    unsized = open_dataset(str(folder))
    assert unsized.from_files
    assert (unsized.channels, unsized.height, unsized.width) == (3, 224, 224)


def test_identity_does_not_depend_on_how_images_are_held(folder: Path, data: Dataset) -> None:
    assert open_dataset(str(folder), size=16).identity == data.identity


def test_still_images_are_centre_crops(folder: Path, data: Dataset) -> None:
    [batch] = data.train.iter_plain()
    assert batch.shape == (10, 3, 136, 136)
    row = data.train.sample_ids.index("b/3.jpg")
    with Image.open(folder / "train/b/3.jpg") as image:
        scale = 136 / min(image.size)
        sides = [max(136, round(side * scale)) for side in image.size]
        resized = image.convert("RGB").resize(sides, Image.Resampling.BILINEAR)
        left, top = ((side - 136) // 2 for side in resized.size)
        cropped = np.asarray(resized.crop((left, top, left + 136, top + 136)))
    assert np.array_equal(batch[row].permute(1, 2, 0).numpy(), cropped)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("rrc", "flip"),
        ("crop:10", "rotate:20", "jitter"),
        ("rrc", "jitter", "v2/TrivialAugmentWide", "cutout:30"),
        ("rrc", "mixup", "cutmix"),
    ],
)
def test_a_view_is_the_same_whoever_makes_it(data: Dataset, names: tuple[str, ...]) -> None:
    requests = [(torch.arange(10), torch.full((10,), view)) for view in range(3)]
    expected = [made.images_BCHW for made in views(data, *names).stream(requests)]
    for workers in (1, 2, 3):
        made = views(data, *names, workers=workers).stream(requests)
        assert all(torch.equal(a, b.images_BCHW) for a, b in zip(expected, made, strict=True))
    for row in (0, 7):
        alone = views(data, *names).batch(torch.tensor([row]), torch.tensor([1]))
        assert torch.equal(alone.images_BCHW[0], expected[1][row])


def test_a_random_crop_is_pillows_resize_of_the_box(folder: Path, data: Dataset) -> None:
    from distill_cli.counters import Purpose, draw, uniform
    from distill_cli.data.geometry import ResizedCrop

    made = views(data, "rrc").batch(torch.tensor([4]), torch.tensor([9])).images_BCHW[0]
    words = (9, int(data.train.key_N[4]), torch.arange(ResizedCrop.draws))
    numbers = uniform(draw(0, Purpose.AUGMENT, *words))[None]
    with Image.open(folder / "train" / data.train.sample_ids[4]) as image:
        width, height = (torch.tensor([side]) for side in image.size)
        [[left, top, wide, high]] = ResizedCrop().boxes(numbers, height, width).tolist()
        cut = image.resize(
            (136, 136), Image.Resampling.BILINEAR, (left, top, left + wide, top + high)
        )
    assert torch.equal(made, torch.from_numpy(np.array(cut)).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("kind", ["w", "w:gz", "zip"])
def test_an_archive_is_read_by_several_processes(
    folder: Path, data: Dataset, tmp_path: Path, kind: str
) -> None:
    if kind == "zip":
        import shutil

        packed = Path(shutil.make_archive(str(tmp_path / "data"), "zip", folder))
    else:
        packed = tmp_path / f"data.tar{'.gz' if kind == 'w:gz' else ''}"
        with tarfile.open(packed, kind) as tar:
            tar.add(folder, arcname=".")
    other = open_dataset(str(packed), size=136)
    assert other.identity == data.identity
    requests = [(torch.arange(10), torch.full((10,), view)) for view in range(8)]
    expected = views(data, "rrc").stream(requests)
    for a, b in zip(expected, views(other, "rrc", workers=3).stream(requests), strict=True):
        assert torch.equal(a.images_BCHW, b.images_BCHW)


def damaged(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(6):
        for split in ("train", "test"):
            path = root / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(path)
    broken = root / "train" / "a" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:-400])
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_is_named_when_it_is_met(tmp_path: Path, workers: int) -> None:
    root = damaged(tmp_path)
    broken = root / "train" / "a" / "2.jpg"
    content = broken.read_bytes()
    picture(2).save(broken)
    data, rows = open_dataset(str(root), size=136, val_fraction=0.4), torch.arange(6)
    broken.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"train/a/2\.jpg.*--skip-bad"):
        list(views(data, "rrc", workers=workers).stream([(rows, rows)]))
    with pytest.raises(ArtifactError, match=r"train/a/2\.jpg.*--skip-bad"):
        # Met while the statistics of the images are taken.
        open_dataset(str(root), size=136, val_fraction=0.4)


def test_bad_images_are_left_out_once_and_for_all(tmp_path: Path) -> None:
    root = str(damaged(tmp_path))
    data = open_dataset(root, size=136, val_fraction=0.4, skip_bad=True)
    assert data.skipped == 1
    assert "a/2.jpg" not in data.train.sample_ids
    again = open_dataset(root, size=136, val_fraction=0.4, skip_bad=True)
    assert (again.skipped, again.identity) == (1, data.identity)


def test_a_file_that_is_no_image_is_refused_at_once(tmp_path: Path) -> None:
    root = damaged(tmp_path)
    (root / "train/b/9.jpg").write_text("no image")
    with pytest.raises(ArtifactError, match=r"b/9\.jpg"):
        open_dataset(str(root), size=136)


def _dies(request: int) -> torch.Tensor:
    if request == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.tensor(request)


def test_a_killed_worker_is_an_error_and_no_hang() -> None:
    with pytest.raises(InternalError, match=r"worker.*--workers"):
        list(stream(_dies, range(10), workers=2))


def _refuses(request: int) -> torch.Tensor:
    raise UsageError(f"request {request}", hint="do something else")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_arrives_whole(workers: int) -> None:
    with pytest.raises(UsageError) as caught:
        list(stream(_refuses, range(3), workers=workers))
    assert (caught.value.message, caught.value.hint) == ("request 0", "do something else")


def test_workers_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    assert [int(x) for x in stream(torch.tensor, list(range(5)), workers=2)] == list(range(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_library_transform_that_needs_something_else_is_refused(data: Dataset) -> None:
    with pytest.raises(UsageError, match="v2/RandomResizedCrop"):
        views(data, "v2/RandomResizedCrop:size=7").batch(torch.arange(2), torch.arange(2))


def test_statistics_are_those_of_the_images(data: Dataset) -> None:
    assert isinstance(data.train, ImageFiles)
    [images] = data.train.take(data.fit_rows).iter_plain()
    for channel in range(3):
        values = images[:, channel].double() / 255
        assert data.mean[channel] == pytest.approx(float(values.mean()), abs=1e-9)
        assert data.std[channel] == pytest.approx(float(values.std(correction=0)), abs=1e-9)


def test_sixteen_bit_tiff_is_scaled_like_in_memory(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("a/1.tif", "a/2.tif", "b/1.tif", "b/2.tif")):
            path = tmp_path / "data" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # No two are equal, though all are of one grey.
            grey = np.full((150, 150 + number), 65535 // 2, dtype=np.uint16)
            Image.fromarray(grey).save(path)
    data = open_dataset(str(tmp_path / "data"))
    assert (data.from_files, data.channels) == (True, 1)
    [images] = data.train.iter_plain()
    assert set(images.unique().tolist()) == {127}
