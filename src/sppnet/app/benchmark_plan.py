"""How much ``sppnet benchmark pooling`` measures. No torch."""

import os
from dataclasses import dataclass, field, replace

LEVELS = (6, 3, 2, 1)
# The goals of cases with several threads are stated for this number.
GOAL_THREADS = 2


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
class GrowthPlan:
    """The points at which growth is measured; each axis keeps the others at ``windows`` and so on.

    Args:
        windows: Numbers of windows, at ``few_channels``.
        channels: Numbers of channels, at 2,000 windows.
        sides: Sides of square maps.
        levels: Pyramids.
        few_channels: Channels of the maps that many windows are pooled from.
    """

    windows: tuple[int, ...] = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)
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
class BenchmarkPlan:
    """Sizes and repetitions; a test may ask for less.

    Args:
        threads: Threads of the cases that use several.
        seed: Of maps, windows and shapes.
        pace: Repetitions.
        sweep_pace: Repetitions for each shape of the sweep.
        windows: Windows of the region cases.
        region_maps: (C, H, W) of the region cases.
        whole_maps: (N, C, H, W) of the whole-map cases.
        sweep_shapes: Random shapes, each in two layouts.
        sweep_bytes: Largest input of the sweep.
        mixed_maps: Maps of different sizes in one call.
        mixed_channels: Their channels.
        mixed_sides: Least and greatest side.
        growth: Points of the growth curves.
        image_sides: Sides of the square images of the exported classifier.
        gpu_windows: Windows on a GPU.
    """

    threads: int = GOAL_THREADS
    seed: int = 0
    pace: Pace = field(default_factory=Pace)
    sweep_pace: Pace = Pace(rounds=7, least_seconds=0.0005)
    windows: int = 2_000
    region_maps: tuple[tuple[int, int, int], ...] = ((256, 40, 60), (512, 38, 50))
    whole_maps: tuple[tuple[int, int, int, int], ...] = ((32, 256, 13, 13), (8, 512, 38, 50))
    sweep_shapes: int = 200
    sweep_bytes: int = 4_000_000
    mixed_maps: int = 64
    mixed_channels: int = 256
    mixed_sides: tuple[int, int] = (6, 40)
    growth: GrowthPlan = field(default_factory=GrowthPlan)
    image_sides: tuple[int, ...] = (128, 160, 224, 256, 320)
    gpu_windows: tuple[int, ...] = (2_000, 100_000)


QUICK = BenchmarkPlan(
    pace=Pace(rounds=7, slow_rounds=3, least_seconds=0.001),
    sweep_pace=Pace(rounds=7, least_seconds=0.0003),
    sweep_shapes=30,
    sweep_bytes=1_000_000,
    image_sides=(128, 224, 320),
    growth=GrowthPlan(
        windows=(100, 1_000, 10_000),
        channels=(16, 64, 256),
        sides=(10, 50, 200),
        levels=((1,), (4, 2, 1), LEVELS, (7, 5, 3, 1)),
    ),
)


def choose_plan(*, quick: bool = False, threads: int | None = None) -> BenchmarkPlan:
    """Choose the sizes and repetitions of a run.

    Args:
        quick: Whether it shall end in under a minute.
        threads: Threads of the cases that use several; 2 if not given.

    Example:
        >>> choose_plan(quick=True, threads=4).threads
        4
    """
    plan = QUICK if quick else BenchmarkPlan()
    return replace(plan, threads=threads or min(GOAL_THREADS, os.cpu_count() or 1))
