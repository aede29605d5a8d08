"""Random truth and detections with all that makes scoring hard: ties, crowds, empty images."""

import random
from types import SimpleNamespace

import torch

from oracles.slow_average_precision import Thing
from sppnet.geometry import Detections


def random_scene(
    seed: int, *, difficult: bool, crowd: bool, many: bool = False
) -> tuple[list[Thing], list[Thing], int, int]:
    """Objects, detections (1-based inclusive integer corners), number of images and of classes."""
    draw = random.Random(seed)
    images, classes = draw.randint(1, 6), draw.randint(1, 4)
    truth, found = [], []
    for image in range(images):
        for _ in range(draw.choice([0, 0, 1, 2, 5, 9])):
            truth.append(
                Thing(
                    image,
                    draw.randrange(classes),
                    random_box(draw),
                    difficult=difficult and draw.random() < 0.25,
                    crowd=crowd and draw.random() < 0.25,
                )
            )
        for _ in range(draw.choice([0, 1, 5, 20]) if not many else 150):
            near = [thing for thing in truth if thing.image == image]
            label, box = draw.randrange(classes), random_box(draw)
            if near and draw.random() < 0.75:
                target = draw.choice(near)
                label = target.label if draw.random() < 0.9 else label
                box = shaken(draw, target.box)
            score = draw.choice([draw.randint(1, 8) / 8, draw.random()])  # many ties
            found.append(Thing(image, label, box, float(torch.tensor(score))))
    return truth, found, images, classes


def random_box(draw: random.Random) -> tuple[int, int, int, int]:
    x, y = draw.randint(1, 40), draw.randint(1, 40)
    return x, y, x + draw.randint(0, 20), y + draw.randint(0, 20)


def shaken(draw: random.Random, box: tuple) -> tuple[int, int, int, int]:
    """A box nearby, at times the same one."""
    reach = draw.choice([0, 1, 2, 4])
    x1, y1, x2, y2 = (side + draw.randint(-reach, reach) for side in box)
    return x1, y1, max(x1, x2), max(y1, y2)


def half_open(things: list[Thing]) -> torch.Tensor:
    """(K, 4): the reader's conversion of 1-based inclusive corners."""
    rows = [(x1 - 1, y1 - 1, x2, y2) for x1, y1, x2, y2 in (thing.box for thing in things)]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def as_images(truth: list[Thing], count: int) -> list[SimpleNamespace]:
    """What the readers of data sets give."""
    images = []
    for number in range(count):
        here = [thing for thing in truth if thing.image == number]
        images.append(
            SimpleNamespace(
                image_id=number,
                boxes=half_open(here),
                labels=torch.tensor([thing.label for thing in here], dtype=torch.int64),
                difficult=torch.tensor([thing.difficult for thing in here], dtype=torch.bool),
                crowd=torch.tensor([thing.crowd for thing in here], dtype=torch.bool),
                areas=None,
            )
        )
    return images


def as_detections(found: list[Thing]) -> dict[int, Detections]:
    """By image, images without any left out."""
    by_image = {}
    for number in sorted({thing.image for thing in found}):
        here = [thing for thing in found if thing.image == number]
        by_image[number] = Detections(
            half_open(here),
            torch.tensor([thing.score for thing in here], dtype=torch.float32),
            torch.tensor([thing.label for thing in here]),
        )
    return by_image
