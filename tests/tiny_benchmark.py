"""A benchmark that ends in a second, and two timings."""

from sppnet.app.benchmark.timing import (
    BenchmarkConfig,
    GrowthConfig,
    Pace,
    Timing,
)

TINY = BenchmarkConfig(
    pace=Pace(rounds=3, slow_rounds=1, slow_seconds=1, least_seconds=1e-5),
    sweep_pace=Pace(rounds=2, least_seconds=1e-6),
    regions=60,
    region_maps=((4, 7, 9), (8, 5, 6)),
    whole_maps=((2, 3, 5, 6), (1, 4, 7, 3)),
    sweep_shapes=4,
    sweep_bytes=10_000,
    mixed_maps=5,
    mixed_channels=3,
    mixed_sides=(2, 6),
    growth=GrowthConfig((1_000, 2_000), (2, 4), (4, 8), ((1,), (7, 2)), few_channels=2),
    image_sides=(64,),
    gpu_regions=(20,),
)


STEADY, SHAKY = Timing(10.0, 9.9, 10.1, 7, 1), Timing(10.0, 8.0, 13.0, 7, 1)
