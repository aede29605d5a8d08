"""Times functions in turns: medians and quartiles, and the sizes and repetitions of a run.

Contenders take turns (a, b, a, b), so that a machine that gets slower or faster does so for all of
them. A call that is too short for the clock is repeated within one measurement; one that takes long
has fewer measurements. Except for slow calls, each turn begins with a call that does not count, so
that no contender pays for what the previous one left in the caches. The garbage collector is off
meanwhile.
"""

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles

import torch

LEVELS = (6, 3, 2, 1)
# The goals of cases with several threads are stated for this number.
GOAL_THREADS = 2
Call = Callable[[], object]
# Quartiles farther apart than this part of the median: something else kept the machine busy.
UNSTEADY = 0.2
# Our threads and those of other programs may be so many processors more than there are.
CROWDED = 0.2
# What others do is counted in hundredths of a second: shorter timings cannot tell.
LEAST_WATCH = 0.5


@dataclass(frozen=True)
class Pace:
    """How often contenders are called.

    Args:
        rounds: Repetitions of each contender, which take turns.
        slow_rounds: Repetitions of those that take long.
        slow_seconds: From which time of one call on a contender is slow.
        least_seconds: A repetition takes at least so long: short calls are made several times.
    """

    rounds: int = 9
    slow_rounds: int = 5
    slow_seconds: float = 0.25
    least_seconds: float = 0.002


@dataclass(frozen=True)
class GrowthConfig:
    """The points at which growth is measured, one axis at a time.

    Args:
        regions: Numbers of regions, at ``few_channels``.
        channels: Numbers of channels, at the ``regions`` of the region cases.
        sides: Sides of square maps.
        levels: Pyramids.
        few_channels: Channels of the maps that many regions are pooled from.
    """

    regions: tuple[int, ...] = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)
    channels: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    sides: tuple[int, ...] = (10, 20, 50, 100, 200)
    levels: tuple[tuple[int, ...], ...] = (
        (1,),
        (2, 1),
        (4, 2, 1),
        LEVELS,
        (7, 5, 3, 1),
        (8, 4, 2, 1),
        (12, 6, 3, 2, 1),
    )
    few_channels: int = 64


@dataclass(frozen=True)
class BenchmarkConfig:
    """Sizes and repetitions of a run.

    Args:
        threads: Threads of the cases that use several.
        seed: Of maps, regions and shapes.
        pace: Repetitions.
        sweep_pace: Repetitions for each shape of the sweep.
        regions: Regions of the region cases.
        region_maps: (C, H, W) of the region cases.
        whole_maps: (N, C, H, W) of the whole-map cases.
        sweep_shapes: Random shapes, each in two layouts.
        sweep_bytes: Largest input of the sweep.
        mixed_maps: Maps of different sizes in one call.
        mixed_channels: Their channels.
        mixed_sides: Least and greatest side.
        growth: Points of the growth curves.
        image_sides: Sides of the square images of the exported classifier.
        gpu_regions: Regions on a GPU.
    """

    threads: int = GOAL_THREADS
    seed: int = 0
    pace: Pace = field(default_factory=Pace)
    sweep_pace: Pace = Pace(rounds=7, least_seconds=0.0005)
    regions: int = 2_000
    region_maps: tuple[tuple[int, int, int], ...] = ((256, 40, 60), (512, 38, 50))
    whole_maps: tuple[tuple[int, int, int, int], ...] = ((32, 256, 13, 13), (8, 512, 38, 50))
    sweep_shapes: int = 200
    sweep_bytes: int = 4_000_000
    mixed_maps: int = 64
    mixed_channels: int = 256
    mixed_sides: tuple[int, int] = (6, 40)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    image_sides: tuple[int, ...] = (128, 160, 224, 256, 320)
    gpu_regions: tuple[int, ...] = (2_000, 100_000)


QUICK = BenchmarkConfig(
    pace=Pace(rounds=7, slow_rounds=3, least_seconds=0.001),
    sweep_pace=Pace(rounds=7, least_seconds=0.0003),
    sweep_shapes=30,
    sweep_bytes=1_000_000,
    image_sides=(128, 224, 320),
    growth=GrowthConfig(
        regions=(100, 1_000, 10_000),
        channels=(16, 64, 256),
        sides=(10, 50, 200),
        levels=((1,), (4, 2, 1), LEVELS, (7, 5, 3, 1)),
    ),
)


def choose_config(*, quick: bool = False, threads: int | None = None) -> BenchmarkConfig:
    """Choose the sizes and repetitions of a run.

    Args:
        quick: Whether the run is to end in under a minute.
        threads: Threads of the cases that use several; 2 if not given.

    Example:
        >>> choose_config(quick=True, threads=4).threads
        4
    """
    config = QUICK if quick else BenchmarkConfig()
    return replace(config, threads=threads or min(GOAL_THREADS, os.cpu_count() or 1))


@dataclass(frozen=True)
class Timing:
    """What one contender took, in milliseconds of a call.

    Args:
        median_ms: The median of all repetitions.
        low_ms: The first quartile.
        high_ms: The third.
        repetitions: How many there were.
        calls: Calls in each of them.
        others: Processors that other programs kept busy meanwhile; None if unknown.
        is_crowded: Whether there were too few processors for us and them.

    Example:
        >>> Timing(10.0, 9.0, 12.0, 7, 1).is_unsteady
        True
    """

    median_ms: float
    low_ms: float
    high_ms: float
    repetitions: int
    calls: int
    others: float | None = None
    is_crowded: bool = False

    @property
    def is_unsteady(self) -> bool:
        """Whether the quartiles lie far apart, or other programs took processors away."""
        return self.is_crowded or self.high_ms - self.low_ms > UNSTEADY * self.median_ms


def time_together(
    contenders: Mapping[str, Call], pace: Pace, wait: Call = lambda: None
) -> dict[str, Timing]:
    """Time contenders that do the same thing, in turns.

    Args:
        contenders: Name -> what to call; called before, so that nothing is left to compile.
        pace: How often.
        wait: Waits until everything that was called is done; a GPU needs it.

    Returns:
        Name -> times, in the same order.

    Example:
        >>> [*time_together({"a": lambda: 1, "b": lambda: 2}, Pace(rounds=3))]
        ['a', 'b']
    """
    calls, watch = {}, _Watch()
    with _collector_resting():
        for name, call in contenders.items():
            calls[name] = _seconds_of(call, 1, wait)  # may load, or fault in memory
            if calls[name] < pace.slow_seconds:
                calls[name] = _seconds_of(call, 1, wait)
        counts = {name: max(1, math.ceil(pace.least_seconds / s)) for name, s in calls.items()}
        every = {name: _turns(seconds, pace) for name, seconds in calls.items()}
        samples: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(pace.rounds):
            for name, call in contenders.items():
                if turn % every[name] == 0:
                    if calls[name] < pace.slow_seconds:
                        call()
                    seconds = _seconds_of(call, counts[name], wait)
                    samples[name].append(1000 * seconds / counts[name])
    others = watch.others()
    return {name: _summarise(values, counts[name], others) for name, values in samples.items()}


def _turns(seconds: float, pace: Pace) -> int:
    """Every how many rounds a contender has its turn."""
    if seconds < pace.slow_seconds:
        return 1
    return max(1, math.ceil(pace.rounds / pace.slow_rounds))


def _seconds_of(call: Call, count: int, wait: Call) -> float:
    """Seconds of several calls."""
    wait()
    start = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return max(time.perf_counter() - start, 1e-9)


def _summarise(samples: list[float], calls: int, others: float | None) -> Timing:
    low, _, high = quantiles(samples, n=4, method="inclusive") if samples[1:] else samples * 3
    room = (os.cpu_count() or 1) - torch.get_num_threads()
    crowded = others is not None and others > room + CROWDED
    return Timing(median(samples), low, high, len(samples), calls, others, crowded)


class _Watch:
    """Measures how many processors other programs keep busy, where the system tells (Linux)."""

    def __init__(self) -> None:
        self._begin = self._now()

    def others(self) -> float | None:
        """Mean number of processors since the beginning."""
        wall, ours, everybody = (b - a for a, b in zip(self._begin, self._now(), strict=True))
        if wall < LEAST_WATCH or not everybody:
            return None
        return round(max(0.0, everybody - ours) / wall, 2)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: of the clock, that this program has computed, that all programs have."""
        path, ticks = Path("/proc/stat"), 0
        if path.exists():
            user, nice, system, _, _, *rest = path.read_text(encoding="ascii").split()[1:9]
            ticks = sum(map(int, (user, nice, system, *rest)))
        everybody = ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0
        return time.monotonic(), time.process_time(), everybody


@contextmanager
def _collector_resting() -> Iterator[None]:
    """Switch the garbage collector off meanwhile."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
