"""Images as a caller of scikit-learn has them: folders, paths, or pictures in memory."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from sppnet.classification.class_data import SplitRule, open_class_data
from sppnet.images import to_image
from sppnet.images.content import content_number, read_content


def read_labelled(folder: Any, part: str) -> tuple[list[Path], list[str]]:
    """Find the images of class folders and their classes' names.

    Args:
        folder: Folder of class folders, or of ``train`` and ``test`` (or ``val``) folders of them.
        part: ``"train"`` or ``"test"``: which of these to take.

    Returns:
        Paths and labels.

    Raises:
        TypeError: If it is no folder.
    """
    if not isinstance(folder, str | Path):
        raise TypeError(f"y must be given unless images is a folder, got {type(folder).__name__}")
    data = open_class_data(folder, SplitRule())
    for problem in data.problems:
        warnings.warn(str(problem), stacklevel=3)
    chosen = list(range(len(data.paths)))
    if data.given is not None:
        chosen = (data.given == (part == "test")).nonzero().flatten().tolist()
    return [data.paths[i] for i in chosen], [data.names[data.labels[i]] for i in chosen]


def content_numbers(images: list[Any]) -> Tensor:
    """Numbers by which files that were fitted on are known again; images in memory have none."""
    files = [image for image in images if isinstance(image, str | Path)]
    return torch.tensor([content_number(read_content(file)) for file in files], dtype=torch.int64)


@contextmanager
def as_files(images: list[Any]) -> Iterator[list[str | Path]]:
    """Give paths of all images; what is only in memory is written to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="sppnet-") as folder:
        paths: list[str | Path] = []
        for number, image in enumerate(images):
            if isinstance(image, str | Path):
                paths.append(image)
                continue
            paths.append(Path(folder) / f"{number}.png")
            to_pil_image(to_image(image)).save(paths[-1])
        yield paths
