"""Checks of the Keras layer on one backend, in a process of its own.

Keras binds itself to the backend of KERAS_BACKEND for the life of the process. This script runs
every ``check_*`` and prints {name: what went wrong, or None} as its last line.
"""

import doctest
import itertools
import json
import math
import re
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from keras_backends import BACKEND, compile_forms, exact, gradient, near, to_keras, to_torch
from keras_truth import (
    BINS,
    FIT_SIZES,
    FORMATS,
    LEVELS,
    SIZES,
    both_formats,
    drawn,
    gradient_by_torch,
    max_by_torch,
    mean_by_torch,
    whole_numbers,
)

from sppnet.pooling import keras_layer, spatial_pyramid_pool
from sppnet.pooling.keras_layer import SpatialPyramidPooling2D

ROOT = Path(__file__).parents[2]


def check_maxima_are_bit_equal() -> None:
    for maps, data_format in both_formats():
        layer = SpatialPyramidPooling2D(LEVELS, data_format=data_format)
        exact(layer(to_keras(maps, data_format)), max_by_torch(maps))


def check_gradients_of_maxima_are_equal() -> None:
    for maps, data_format in both_formats():
        layer = SpatialPyramidPooling2D(LEVELS, data_format=data_format)
        found = gradient(layer, to_keras(maps, data_format), whole_numbers())
        exact(found, gradient_by_torch(max_by_torch, maps), data_format)


def check_gradient_of_a_flat_map_goes_to_the_first_cells() -> None:
    layer = SpatialPyramidPooling2D((1, 2), data_format="channels_last")
    found = gradient(layer, to_keras(torch.zeros(1, 1, 3, 3)), torch.ones(1, 5))
    expected = [[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert to_torch(found, "channels_last")[0, 0].tolist() == expected


def check_compiled_forms_are_equal_at_every_size() -> None:
    layer = SpatialPyramidPooling2D(LEVELS, data_format="channels_last")
    for form in compile_forms(layer.call):
        for seed, (height, width) in enumerate(SIZES):
            maps = drawn(seed, height, width)
            exact(form(to_keras(maps)), max_by_torch(maps))
            found = gradient(form, to_keras(maps), whole_numbers())
            exact(found, gradient_by_torch(max_by_torch, maps), "channels_last")


def check_compiled_means_are_near_at_every_size() -> None:
    layer = SpatialPyramidPooling2D(LEVELS, "avg", "channels_last")
    for form in compile_forms(layer.call):
        for height, width in SIZES:
            maps = torch.randn(2, 3, height, width)
            near(form(to_keras(maps)), mean_by_torch(maps))


def check_means_and_their_gradients_are_near() -> None:
    for drawn_maps, data_format in both_formats():
        maps = torch.randn_like(drawn_maps)
        layer = SpatialPyramidPooling2D(LEVELS, "avg", data_format)
        near(layer(to_keras(maps, data_format)), mean_by_torch(maps))
        found = gradient(layer, to_keras(maps, data_format), whole_numbers())
        near(found, gradient_by_torch(mean_by_torch, maps), data_format)


def check_means_keep_infinity_and_nan_in_their_bins() -> None:
    maps = torch.randn(2, 3, 13, 10)
    maps[0, 0, 12, 9], maps[1, 2, 0, 0] = math.inf, math.nan  # corners: one bin of every level
    pooled = SpatialPyramidPooling2D(LEVELS, "avg", "channels_last")(to_keras(maps))
    near(pooled, mean_by_torch(maps))
    assert to_torch(pooled).isfinite().sum() == 2 * BINS - 2 * len(LEVELS)


def check_means_of_halves_do_not_overflow() -> None:
    maps = torch.full((1, 1, 40, 40), 100.0, dtype=torch.float16)  # 160,000 in all, past 65,504
    layer = SpatialPyramidPooling2D((1,), "avg", "channels_last", dtype="float16")
    assert to_torch(layer(to_keras(maps))).tolist() == [[100.0]]


def check_every_dtype_stays() -> None:
    # JAX has float64 only where the whole process asks for it
    for name in ["float16", "bfloat16", "float32", *([] if BACKEND == "jax" else ["float64"])]:
        dtype = getattr(torch, name)
        maps = drawn(1, 2, 3).to(dtype)
        layer = SpatialPyramidPooling2D(LEVELS, data_format="channels_last", dtype=name)
        pooled = layer(to_keras(maps))
        assert keras.backend.standardize_dtype(pooled.dtype) == name
        exact(pooled, max_by_torch(maps))
        maps = torch.randn(2, 3, 13, 10).to(dtype)
        means = SpatialPyramidPooling2D(LEVELS, "avg", "channels_last", dtype=name)
        pooled = means(to_keras(maps))
        assert keras.backend.standardize_dtype(pooled.dtype) == name
        near(pooled, mean_by_torch(maps.double()).to(dtype))


def check_mixed_precision_pools_halves() -> None:
    for name in ("float16", "bfloat16"):
        maps = torch.randn(2, 3, 9, 8)
        half = getattr(torch, name)
        layer = SpatialPyramidPooling2D((1, 2), data_format="channels_last", dtype=f"mixed_{name}")
        pooled = layer(to_keras(maps))
        assert keras.backend.standardize_dtype(pooled.dtype) == name
        exact(pooled, spatial_pyramid_pool(maps.to(half), (1, 2)))
        found = to_torch(gradient(layer, to_keras(maps), torch.ones(2, 15).to(half)))
        assert found.sum() == 2 * 15


def check_functional_models_take_every_size() -> None:
    for data_format in FORMATS:
        sides = (None, None, 3) if data_format == "channels_last" else (3, None, None)
        images = keras.Input(sides)
        layer = SpatialPyramidPooling2D(LEVELS, data_format=data_format)
        model = keras.Model(images, layer(images))
        assert model.output_shape == (None, BINS)
        for height, width in SIZES:
            maps = drawn(5, height, width)
            given = to_keras(maps, data_format)
            assert layer.compute_output_shape(given.shape) == (2, BINS)
            exact(model(given), max_by_torch(maps))
            predicted = model.predict(keras.ops.convert_to_numpy(given), verbose=0)
            exact(predicted, max_by_torch(maps))


def batches_of_many_sizes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches whose class is the channel that holds the one bright cell."""
    generator = np.random.default_rng(0)
    while True:
        height, width = FIT_SIZES[generator.integers(len(FIT_SIZES))]
        labels = generator.integers(0, 3, 16)
        maps = generator.normal(size=(16, height, width, 3)).astype("float32")
        rows, columns = generator.integers(0, height, 16), generator.integers(0, width, 16)
        maps[np.arange(16), rows, columns, labels] += 9
        yield maps, labels


def check_fit_learns_from_batches_of_many_sizes() -> None:
    keras.utils.set_random_seed(0)
    convolution = keras.layers.Conv2D(3, 1, data_format="channels_last")
    pyramid = SpatialPyramidPooling2D((1, 2), data_format="channels_last")
    parts = [keras.Input((None, None, 3)), convolution, pyramid, keras.layers.Dense(3)]
    model = keras.Sequential(parts)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    before = to_torch(convolution.get_weights()[0])
    fit = model.fit(batches_of_many_sizes(), steps_per_epoch=40, epochs=2, verbose=0)
    assert fit.history["accuracy"][1] > 0.9
    assert not torch.equal(to_torch(convolution.get_weights()[0]), before)


def check_saved_models_come_back() -> None:
    given = to_keras(drawn(3, 5, 8).nan_to_num(0, 1, -1), "channels_first")
    for mode in ("max", "avg"):
        images = keras.Input((3, None, None))
        layer = SpatialPyramidPooling2D([3, 1], mode, "channels_first", name="pyramid")
        model = keras.Model(images, layer(images))
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "model.keras")
            loaded = keras.saving.load_model(Path(folder) / "model.keras")
        again = loaded.get_layer("pyramid")
        assert again.get_config() == layer.get_config()
        assert (again.levels, again.mode, again.data_format) == ((3, 1), mode, "channels_first")
        exact(loaded(given), to_torch(model(given)))


def check_data_format_defaults_to_the_configuration() -> None:
    default = keras.config.image_data_format()
    try:
        for data_format in FORMATS:
            keras.config.set_image_data_format(data_format)
            assert SpatialPyramidPooling2D().data_format == data_format
    finally:
        keras.config.set_image_data_format(default)


def check_nothing_in_nothing_out() -> None:
    for mode, (batch, channels) in itertools.product(("max", "avg"), [(0, 3), (2, 0)]):
        layer = SpatialPyramidPooling2D((1, 3), mode, "channels_last")
        assert tuple(layer(to_keras(torch.zeros(batch, channels, 4, 5))).shape) == (
            batch,
            channels * 10,
        )


def check_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="levels must be one or more positive integers"):
        SpatialPyramidPooling2D([])
    with pytest.raises(TypeError, match="levels must be a sequence of integers"):
        SpatialPyramidPooling2D(3)
    with pytest.raises(ValueError, match="mode must be one of max, avg, got 'mean'"):
        SpatialPyramidPooling2D(mode="mean")
    with pytest.raises(ValueError, match=r"data_format must be one of .*, got 'NHWC'"):
        SpatialPyramidPooling2D(data_format="NHWC")
    layer = SpatialPyramidPooling2D(data_format="channels_last")
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        layer(keras.ops.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match="height and width of at least 1, got shape"):
        layer(keras.ops.zeros((2, 0, 4, 3)))
    with pytest.raises(TypeError, match=r"features must be one of float16, .* got int32"):
        layer(keras.ops.zeros((2, 4, 4, 3), dtype="int32"))
    with pytest.raises(ValueError, match="features must have a known number of channels"):
        layer(keras.Input((None, None, None)))


def check_examples_run() -> None:
    assert doctest.testmod(keras_layer) == (0, 3)


def check_the_page_runs() -> None:
    page = (ROOT / "docs" / "keras.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})


def run_all() -> dict[str, str | None]:
    """Run every check; what went wrong in each."""
    results: dict[str, str | None] = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                results[name] = None
            except (Exception, pytest.fail.Exception):  # pytest.raises fails past Exception
                results[name] = traceback.format_exc()
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(json.dumps(run_all()))
