"""Seconds per image of the features, for the speed rows of tables 9 and 10."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from sppnet.detection.encoder import Encoder
from sppnet.detection.heads.region_head import RegionHead
from sppnet.detection.proposals.propose import propose
from sppnet.detection.rcnn import RcnnEncoder
from sppnet.errors import InputError, Problem
from sppnet.images import load_image
from sppnet.paper.detection_setup import (
    Method,
    build_method_encoder,
    find_detection_network,
    find_photos,
)
from sppnet.paper.printed import CONV, CONV_SPEED_UP, FC, POOLING, SPEED_UP, TOTAL
from sppnet.paper.resources import Budget, Resources
from sppnet.paper.tables import Finding, Measured, NotRun, missing_words
from sppnet.progress import Track

NO_PHOTOS = "no image to time; any folder of images will do (--data DIR)"
PARTS = "conv with resizing, for R-CNN with warping and pooling; total with pooling"


@dataclass(frozen=True)
class Photo:
    """An image that is timed.

    Args:
        path: Its file.
        windows: (K, 4) xyxy in pixels.
    """

    path: Path
    windows: Tensor


@dataclass
class Seconds:
    """Sums over the images.

    Args:
        conv: Resizing and convolutions; for R-CNN warping and pooling, too.
        pooling: Of the windows, for SPP-net.
        fc: fc6 and fc7 of all windows.
        images: How many.
    """

    conv: float = 0.0
    pooling: float = 0.0
    fc: float = 0.0
    images: int = 0

    @property
    def total(self) -> float:
        """Seconds per image of all stages."""
        return (self.conv + self.pooling + self.fc) / self.images

    @contextmanager
    def stage(self, name: str, device: torch.device, scale: float = 1.0) -> Iterator[None]:
        """Add what happens inside to a stage, times a factor; a GPU is waited for."""
        _wait_for(device)
        began = time.perf_counter()
        yield
        _wait_for(device)
        setattr(self, name, getattr(self, name) + scale * (time.perf_counter() - began))


Timed = tuple[str, Seconds, str]  # column, seconds, what differs


def measure_speed(
    columns: Mapping[str, Method], resources: Resources, track: Track
) -> Iterator[Finding]:
    """Measure the speed rows; R-CNN's way is what the others are compared with.

    Args:
        columns: Method of each column.
        resources: Where everything is.
        track: Shows the progress.
    """
    budget = resources.budget
    photos, problems = propose_photos(find_photos(resources), budget, resources.seed, track)
    yield from problems
    timed: dict[bool, list[Timed]] = {True: [], False: []}
    for column, method in columns.items():
        network = find_detection_network(method.network, resources)
        if isinstance(network, str) or not photos:
            reason = missing_words(network, *([] if photos else [NO_PHOTOS]))
            yield from (NotRun(row, column, reason) for row in (CONV, FC, TOTAL))
            continue
        encoder = build_method_encoder(method, network)
        head = network.build_head(encoder.length, 1, budget.widths, resources.seed)
        seconds = time_features(encoder, head, photos, budget.share, method.label(track))
        words = "; ".join(filter(None, [network.differs, timing_words(photos, resources)]))
        yield from _cells(column, seconds, words)
        timed[method.is_rcnn].append((column, seconds, words))
    yield from _speed_ups(timed[True], timed[False])


def timing_words(photos: Sequence[Photo], resources: Resources) -> str:
    """Say what was timed, where."""
    windows = mean(len(photo.windows) for photo in photos)
    device, share = resources.device, resources.budget.share
    threads = torch.get_num_threads()
    words = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    if device.type == "cuda":
        words = torch.cuda.get_device_name(device)
    parts = [words, f"{len(photos)} images, {windows:.0f} windows each", PARTS]
    if share < 1:
        parts.append(f"R-CNN convolves {share:.0%} of the windows, seconds scaled up")
    return "; ".join(parts)


def _cells(column: str, seconds: Seconds, words: str) -> Iterator[Measured]:
    """Mean seconds of each stage."""
    rows = {CONV: seconds.conv, POOLING: seconds.pooling, FC: seconds.fc}
    for row, value in rows.items():
        if value:
            yield Measured(row, column, value / seconds.images, words, images=seconds.images)
    yield Measured(TOTAL, column, seconds.total, words, images=seconds.images)


def _speed_ups(peers: Sequence[Timed], ours: Sequence[Timed]) -> Iterator[Finding]:
    """How many times as fast as R-CNN's way each other column is."""
    for _, peer, _ in peers:
        for column, seconds, words in ours:
            yield Measured(SPEED_UP, column, peer.total / seconds.total, words)
            yield Measured(CONV_SPEED_UP, column, peer.conv / seconds.conv, words)


def propose_photos(
    paths: Sequence[Path], budget: Budget, seed: int, track: Track
) -> tuple[list[Photo], list[Problem]]:
    """Find the windows of the images, outside of all times.

    Returns:
        The images that can be decoded, and what is wrong with the others.
    """
    photos, problems = [], []
    for path in track(paths, "proposing windows to time", total=len(paths)):
        try:
            image = load_image(path)
        except InputError as error:
            problems.append(Problem.of(error, "image left out"))
            continue
        photos.append(Photo(path, propose(image, budget.proposals, budget.windows, seed)))
    return photos, problems


def time_features(
    encoder: Encoder, head: RegionHead, photos: Sequence[Photo], share: float, track: Track
) -> Seconds:
    """Time the features of all windows of every image: maps, pooling, fc6 and fc7.

    The first image is computed once more before, to warm up.

    Args:
        encoder: SPP-net's or R-CNN's.
        head: fc6 and fc7.
        photos: What is timed; at least one.
        share: Part of the windows that R-CNN's way really convolves; these seconds are scaled up.
        track: Shows the progress.

    Source:
        SPP-net, section 4.3: the mean over images; proposals, SVMs and suppression are left out.
    """
    share = share if isinstance(encoder, RcnnEncoder) else 1.0
    _time_image(encoder, head, photos[0], share, Seconds())
    seconds = Seconds()
    for photo in track(photos, "timing", total=len(photos)):
        _time_image(encoder, head, photo, share, seconds)
    return seconds


@torch.inference_mode()
def _time_image(
    encoder: Encoder, head: RegionHead, photo: Photo, share: float, seconds: Seconds
) -> None:
    """Add one image."""
    image, device = load_image(photo.path), encoder.device
    with seconds.stage("conv", device):
        encoded = encoder.encode(image)
    chosen = torch.arange(0, len(photo.windows), max(1, round(1 / share)))
    scale = len(photo.windows) / max(1, len(chosen))
    regions = encoder.assign_regions(encoded, photo.windows[chosen])
    part = "conv" if isinstance(encoder, RcnnEncoder) else "pooling"
    with seconds.stage(part, device, scale):
        pooled = encoder.pool(encoded, regions)
    # all rows at once whatever the share: fewer would take longer each
    filled = pooled[torch.arange(len(photo.windows)) % max(1, len(chosen))]
    with seconds.stage("fc", device):
        head.describe(filled, "fc7")
    seconds.images += 1


def _wait_for(device: torch.device) -> None:
    """Let a GPU finish what was begun."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
