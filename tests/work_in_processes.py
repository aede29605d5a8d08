"""A program for ``test_processes.py``: work with threads, then in children, with the same results.

    python work_in_processes.py FOLDER METHOD

FOLDER is a drawn detection set; METHOD is "fork" or "spawn". Prints "same" at the end.
"""

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sppnet.backbones import build_backbone
from sppnet.classification import View
from sppnet.detection.proposals.graph import group_segments
from sppnet.images import open_detection_dataset, resize_image, to_image
from sppnet.pooling import pool_regions, spatial_pyramid_pool

MOST_SECONDS = 60


def use_kernels(folder: Path) -> list[Tensor]:
    """Everything that is compiled here, and OpenCV's proposals, on sizes that take threads."""
    from sppnet.detection.proposals.propose import edge_boxes

    maps = torch.arange(2 * 64 * 40 * 50).reshape(2, 64, 40, 50) * 7.0 % 31
    rows = torch.tensor([[0, 1, 2, 30, 40], [1, 0, 0, 50, 40]])
    pixels = to_image(min(folder.glob("JPEGImages/*"))) * 255
    boxes, *_ = group_segments(pixels.to(torch.uint8), ["hsv"], [30.0, 60.0])
    proposals = [torch.from_numpy(boxes.copy()), edge_boxes(pixels / 255)]
    return [spatial_pyramid_pool(maps), pool_regions(maps, rows), *proposals]


def use_network(_folder: Path) -> list[Tensor]:
    """Convolutions and a resize."""
    torch.manual_seed(0)
    with torch.no_grad():
        image = resize_image(torch.rand(3, 300, 400, generator=torch.Generator()), (200, 260))
        return [image, build_backbone("small5")(image[None])]


class Photos(Dataset[Any]):
    """The images of a data set as a classifier sees them, their pooled pixels and their boxes."""

    def __init__(self, folder: Path) -> None:
        self.images = open_detection_dataset(folder)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> list[Tensor]:
        image = self.images[place]
        pixels = View("full", 64).apply(image.load())
        return [spatial_pyramid_pool(pixels[None].contiguous())[0], image.boxes, image.labels]


def use_loader(folder: Path, method: str) -> None:
    """Let two workers load what this process has loaded with threads before."""
    photos = Photos(folder)
    expected = [photos[place] for place in range(len(photos))]
    loader = DataLoader(
        photos, None, num_workers=2, multiprocessing_context=method, timeout=MOST_SECONDS
    )
    for one, other in zip(loader, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def answer(work: Callable[[Path], list[Tensor]], folder: Path, pipe: Any) -> None:
    """Be the child."""
    pipe.send([each.numpy() for each in work(folder)])


def compare(work: Callable[[Path], list[Tensor]], folder: Path, method: str) -> None:
    """Work here, then in a child."""
    expected = work(folder)
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=answer, args=(work, folder, there), daemon=True)
    child.start()
    assert here.poll(MOST_SECONDS), "the child hangs"
    for one, other in zip(here.recv(), expected, strict=True):
        assert torch.allclose(torch.from_numpy(one), other)
    child.join()


if __name__ == "__main__":
    torch.set_num_threads(2)
    place, way = Path(sys.argv[1]), sys.argv[2]
    compare(use_kernels, place, way)
    compare(use_network, place, way)
    use_loader(place, way)
    print("same")
