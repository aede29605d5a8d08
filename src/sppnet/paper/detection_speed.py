"""Times the features of an image, for the speed rows of tables 9 and 10."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from sppnet.detection import DetectionConfig, Encoder, propose
from sppnet.detection.heads.region_head import RegionHead
from sppnet.detection.rcnn import RcnnEncoder
from sppnet.errors import InputError, Problem, count_of
from sppnet.images import load_image
from sppnet.paper.detection_setup import (
    Method,
    build_method_encoder,
    find_detection_network,
    find_photos,
)
from sppnet.paper.printed import CONV, CONV_SPEED_UP, FC, POOLING, SPEED_UP, TOTAL
from sppnet.paper.resources import Resources, describe_machine
from sppnet.paper.tables import Findings, Measured, NotRun, join_reasons
from sppnet.progress import Track

NO_PHOTOS = "no image to time; any folder of images will do (--data DIR)"
PARTS = "conv with resizing, for R-CNN with warping and pooling; total with pooling"


@dataclass(frozen=True)
class Photo:
    """An image that is timed.

    Args:
        path: Its file.
        proposals: (K, 4) xyxy in pixels.
    """

    path: Path
    proposals: Tensor


class StageClock:
    """Adds up the seconds of named stages.

    Args:
        device: Where the stages compute; a GPU is waited for before the clock is read.

    Example:
        >>> clock = StageClock(torch.device("cpu"))
        >>> with clock.stage("pooling"):
        ...     _ = torch.rand(9).max()
        >>> clock.seconds["pooling"] > 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._spent = 0.0  # by the clock, before anything is scaled up

    @contextmanager
    def stage(self, name: str, scale: float = 1.0) -> Iterator[None]:
        """Time what happens inside, less the stages within it, and add it times a factor."""
        began, before = self._now(), self._spent
        try:
            yield
        finally:
            own = self._now() - began - (self._spent - before)
            self.seconds[name] += scale * own
            self._spent += own

    def _now(self) -> float:
        """Read the clock once the GPU has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


EachSeconds = dict[str, list[float]]  # of every image, by the row of the tables


@dataclass(frozen=True)
class TimedColumn:
    """What timing one method gave.

    Args:
        name: Of the column.
        is_rcnn: Whether it is R-CNN, which the others are compared with.
        seconds: By row, one number for each image.
        differs: What is not as in the paper.
        network: Name of the network.
    """

    name: str
    is_rcnn: bool
    seconds: EachSeconds
    differs: str
    network: str

    @property
    def totals(self) -> list[float]:
        """Seconds of each image, all stages together."""
        return [sum(each) for each in zip(*self.seconds.values(), strict=True)]


def measure_speed(columns: Mapping[str, Method], resources: Resources, track: Track) -> Findings:
    """Measure the speed rows; the other methods are compared with R-CNN.

    Args:
        columns: Method of each column.
        resources: Images, networks and budget.
        track: Shows the progress.
    """
    timed = []
    for found in time_columns(columns, resources, track):
        if isinstance(found, TimedColumn):
            timed.append(found)
            yield from _cells(found)
        elif isinstance(found, NotRun):
            yield from (replace(found, row=row) for row in (CONV, FC, TOTAL))
        else:
            yield found
    yield from _speed_ups(timed)


def time_columns(
    columns: Mapping[str, Method], resources: Resources, track: Track
) -> Iterator[TimedColumn | NotRun | Problem]:
    """Time the features of the same images by several methods.

    Args:
        columns: Method of each column.
        resources: Images, networks and budget.
        track: Shows the progress.

    Yields:
        What is wrong with files; for each column its seconds, or why there are none.
    """
    budget, seed = resources.budget, resources.seed
    paths, settings = find_photos(resources), budget.settings("paper", seed)
    photos, problems = propose_photos(paths, settings, track)
    yield from problems
    for column, method in columns.items():
        network = find_detection_network(method.network, resources)
        if isinstance(network, str) or not photos:
            yield NotRun(TOTAL, column, join_reasons(network, *([] if photos else [NO_PHOTOS])))
            continue
        encoder = build_method_encoder(method, network)
        head = network.build_head(encoder.length, 1, budget.widths, seed)
        seconds = time_features(encoder, head, photos, budget.share, method.label(track))
        conditions = describe_timing(photos, budget.share, resources.device)
        differs = "; ".join(filter(None, [network.differs, conditions]))
        yield TimedColumn(column, method.is_rcnn, seconds, differs, network.name)


def describe_timing(photos: Sequence[Photo], share: float, device: torch.device) -> str:
    """Say what was timed, and on what."""
    proposals = mean(len(photo.proposals) for photo in photos)
    parts = [
        describe_machine(device),
        f"{count_of(len(photos), 'image')}, {proposals:.0f} proposals each",
        PARTS,
    ]
    if share < 1:
        parts.append(f"R-CNN convolves {share:.0%} of the proposals, seconds scaled up")
    return "; ".join(parts)


def _cells(timed: TimedColumn) -> Iterator[Measured]:
    """Seconds of each stage, and of all: mean and deviation over the images."""
    for row, each in {**timed.seconds, TOTAL: timed.totals}.items():
        if any(each):
            deviation = stdev(each) if len(each) > 1 else None
            about = (timed.differs, deviation, len(each), 0.0, timed.network)
            yield Measured(row, timed.name, mean(each), *about)


def _speed_ups(timed: Sequence[TimedColumn]) -> Iterator[Measured]:
    """How many times as fast as R-CNN each other column is."""
    for slow in (each for each in timed if each.is_rcnn):
        for fast in (each for each in timed if not each.is_rcnn):
            total = mean(slow.totals) / mean(fast.totals)
            yield Measured(SPEED_UP, fast.name, total, fast.differs)
            maps = mean(slow.seconds[CONV]) / mean(fast.seconds[CONV])
            yield Measured(CONV_SPEED_UP, fast.name, maps, fast.differs)


def propose_photos(
    paths: Sequence[Path], settings: DetectionConfig, track: Track
) -> tuple[list[Photo], list[Problem]]:
    """Propose regions in the images; this is not timed.

    Args:
        paths: Image files.
        settings: How they are proposed, and how many.
        track: Shows the progress.

    Returns:
        The images that can be decoded, and what is wrong with the others.
    """
    photos, problems = [], []
    for path in track(paths, "finding proposals to time", total=len(paths)):
        try:
            image = load_image(path)
        except InputError as error:
            problems.append(Problem.of(error, "image left out"))
            continue
        found = propose(
            image,
            settings.proposals,
            settings.max_proposals,
            settings.seed,
            search_side=settings.search_side,
            least_side=settings.least_side,
        )
        photos.append(Photo(path, found))
    return photos, problems


def time_features(
    encoder: Encoder, head: RegionHead, photos: Sequence[Photo], share: float, track: Track
) -> EachSeconds:
    """Time the features of all proposals of every image: maps, pooling, fc6 and fc7.

    The first image is computed once before the clock starts, to warm up.

    Args:
        encoder: Of SPP-net or of R-CNN.
        head: fc6 and fc7.
        photos: What is timed; at least one.
        share: Part of the proposals that R-CNN really convolves; these seconds are scaled up.
        track: Shows the progress.

    Returns:
        Seconds of each image by row: ``CONV`` (resizing, too; for R-CNN also warping and pooling),
        ``POOLING`` (SPP-net only) and ``FC``.

    Source:
        SPP-net, section 4.3: the mean over images; proposals, SVMs and suppression are left out.
    """
    share = share if isinstance(encoder, RcnnEncoder) else 1.0
    _time_image(encoder, head, photos[0], share, StageClock(encoder.device))
    found: EachSeconds = defaultdict(list)
    for photo in track(photos, "timing", total=len(photos)):
        clock = StageClock(encoder.device)
        _time_image(encoder, head, photo, share, clock)
        for row, seconds in clock.seconds.items():
            found[row].append(seconds)
    return dict(found)


@torch.inference_mode()
def _time_image(
    encoder: Encoder, head: RegionHead, photo: Photo, share: float, clock: StageClock
) -> None:
    """Add the seconds of one image."""
    image, count = load_image(photo.path), len(photo.proposals)
    with clock.stage(CONV):
        encoded = encoder.encode(image)
    chosen = torch.arange(0, count, max(1, round(1 / share)))
    regions = encoder.assign_regions(encoded, photo.proposals[chosen])
    row = CONV if isinstance(encoder, RcnnEncoder) else POOLING
    with clock.stage(row, scale=count / max(1, len(chosen))):
        pooled = encoder.pool(encoded, regions)
    # all rows at once whatever the share: fewer would take longer each
    filled = pooled[torch.arange(count) % max(1, len(chosen))]
    with clock.stage(FC):
        head.describe(filled, "fc7")
