"""The paper's layer for Keras 3, on its TensorFlow, JAX and torch backends.

The numbers and gradients of the torch layer. Torch pools by its own kernels. The other backends
look up the cells of every bin, find the winner among them and read it from the map, so that
automatic differentiation leads to that cell and to no other.

Nothing else in the package imports Keras; import this module only where Keras is wanted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sppnet.pooling.bins import DEFAULT_LEVELS, bin_ranges, check_levels, check_mode, num_bins
from sppnet.pooling.pyramid import spatial_pyramid_pool

try:
    import keras
    from keras import ops
except ImportError as error:
    raise ImportError(
        "sppnet.pooling.keras_layer needs Keras 3.12 or later and the backend that KERAS_BACKEND "
        "names (tensorflow, jax or torch; tensorflow where it is not set): run "
        f"`pip install 'sppnet[keras]'` and `pip install` of that backend, got {error}"
    ) from error

Array = Any  # a tensor of the backend in use
Size = Any  # an int, or a scalar tensor where TensorFlow learns the size only when it runs

DATA_FORMATS = ("channels_last", "channels_first")
INTEGER_OF = {"float16": "int16", "bfloat16": "int16", "float32": "int32", "float64": "int64"}
LOWEST = -(2**31)


@keras.saving.register_keras_serializable(package="sppnet")
class SpatialPyramidPooling2D(keras.layers.Layer):
    """Pool feature maps of any size into vectors of one length.

    Each level n cuts the map into n x n bins and takes the maximum, or the mean, of every channel
    in every bin. Maps smaller than the grid repeat cells. Height and width may be ``None`` in the
    model and differ from batch to batch.

    Convention:
        As :func:`sppnet.pooling.spatial_pyramid_pool`, whatever the data format: the vector holds
        the levels in the order given; inside a level the channel runs slowest, then the row, then
        the column. Maxima are exact; NaN wins over every number. On ties the gradient goes to the
        first cell in row-major order. Means are added up in float32 or wider.

    Args:
        levels: Bins along each side, one number per level.
        mode: ``"max"``, the paper's, or ``"avg"``.
        data_format: ``"channels_last"``, maps (N, H, W, C), or ``"channels_first"``, (N, C, H, W);
            the default of the Keras configuration where it is None.
        **kwargs: Name and dtype, as of every Keras layer.

    Raises:
        TypeError: If a level is not an integer; when called, if the maps are not floating point.
        ValueError: If there is no level, one is below 1, or mode or data format is not one of the
            above; when called, if the shape does not have four sides, the number of channels is
            not known, or the map is empty.

    Example:
        >>> maps = keras.Input((None, None, 256))
        >>> model = keras.Model(maps, SpatialPyramidPooling2D(data_format="channels_last")(maps))
        >>> [model(np.zeros((2, height, 10, 256))).shape[1] for height in (13, 7)]
        [12800, 12800]

    Source:
        SPP-net, section 2.2 and appendix A.
    """

    def __init__(
        self,
        levels: Sequence[int] = DEFAULT_LEVELS,
        mode: str = "max",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.levels = check_levels(levels)
        self.mode = check_mode(mode)
        self.data_format = _check_format(data_format or keras.config.image_data_format())
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, features: Array) -> Array:
        """Pool (N, H, W, C), or (N, C, H, W) by the data format, into (N, C * sum(n * n))."""
        _check_features(features, self.data_format)
        first = self.data_format == "channels_first"
        if keras.backend.backend() == "torch":
            features = features if first else features.permute(0, 3, 1, 2)
            return spatial_pyramid_pool(features, self.levels, mode=self.mode)
        features = ops.transpose(features, (0, 2, 3, 1)) if first else features
        return _pool(features, self.levels, _max_of_bins if self.mode == "max" else _mean_of_bins)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, int]:
        """Shape of the pooled vectors of maps of a shape.

        Args:
            input_shape: Four sides in the order of the data format; None where not known.

        Returns:
            (N, C * sum(n * n)).

        Raises:
            ValueError: If the number of channels is not known.
        """
        channels = input_shape[_channel_axis(self.data_format)]
        if channels is None:
            raise ValueError(f"features must have a known number of channels, got {input_shape}")
        return input_shape[0], channels * num_bins(self.levels)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make an equal layer."""
        own = {"levels": list(self.levels), "mode": self.mode, "data_format": self.data_format}
        return super().get_config() | own


def _check_format(data_format: str) -> str:
    """Return a data format that is one of the legal ones."""
    if data_format not in DATA_FORMATS:
        raise ValueError(
            f"data_format must be one of {', '.join(DATA_FORMATS)}, got {data_format!r}"
        )
    return data_format


def _channel_axis(data_format: str) -> int:
    """Which of the four sides counts the channels."""
    return 3 if data_format == "channels_last" else 1


def _check_features(features: Array, data_format: str) -> None:
    """Refuse maps that are not floating point, or that are known to hold no cell."""
    dtype = keras.backend.standardize_dtype(features.dtype)
    if dtype not in INTEGER_OF:
        raise TypeError(f"features must be one of {', '.join(INTEGER_OF)}, got {dtype}")
    sides = list(features.shape)
    del sides[_channel_axis(data_format)]
    if 0 in sides[1:]:
        shape = tuple(features.shape)
        raise ValueError(f"features must have a height and width of at least 1, got shape {shape}")


def _pool(features: Array, levels: tuple[int, ...], pool_bins: Any) -> Array:
    """Pool (N, H, W, C) level by level."""
    batch, height, width, channels = ops.shape(features)
    cells = ops.reshape(features, (batch, height * width, channels))
    pooled = pool_bins(cells, [_bin_cells(height, width, n) for n in levels])
    return ops.concatenate(
        [
            ops.reshape(ops.transpose(bins, (0, 2, 1)), (batch, channels * n * n))
            for n, bins in zip(levels, pooled, strict=True)
        ],
        axis=1,
    )


def _side_cells(size: Size, n: int) -> tuple[Array, Array]:
    """(n, k) cells of the n bins along a side, the last one repeated; and which are no repeats."""
    tensors = np if isinstance(size, int) else ops
    start, end = bin_ranges(size, tensors.arange(n, dtype="int32")[:, None], n)
    cells = start + tensors.arange(tensors.max(end - start), dtype="int32")
    return tensors.minimum(cells, end - 1), cells < end


def _bin_cells(height: Size, width: Size, n: int) -> tuple[Array, Array]:
    """(n * n, k) row-major cells of the bins, some repeated; and which are no repeats."""
    (rows, new_rows), (columns, new_columns) = _side_cells(height, n), _side_cells(width, n)
    cells = rows[:, None, :, None] * width + columns[None, :, None, :]
    new = new_rows[:, None, :, None] & new_columns[None, :, None, :]
    return ops.reshape(cells, (n * n, -1)), ops.reshape(new, (n * n, -1))


def _max_of_bins(cells: Array, levels: list[tuple[Array, Array]]) -> list[Array]:
    """(N, n * n, C) greatest of the cells (N, H * W, C) in every bin, for every level."""
    keys, nan = _order_keys(ops.stop_gradient(cells))
    return [
        ops.take_along_axis(cells, _find_winners(keys, nan, bins), axis=1) for bins, _ in levels
    ]


def _order_keys(cells: Array) -> tuple[Array, Array]:
    """Integers in the order of the numbers, 0.0 equal to -0.0; and the key of every NaN, the last.

    Integers, because TensorFlow and JAX take the smallest numbers for zero when they compare, and
    do not agree on where NaN stands.
    """
    kind = INTEGER_OF[keras.backend.standardize_dtype(cells.dtype)]
    wide = "int64" if kind == "int64" else "int32"
    bits = ops.cast(ops.view(cells, kind), wide)
    keys = ops.where(bits < 0, np.array(np.iinfo(kind).min, wide) - bits, bits)
    nan = np.array(np.iinfo(kind).max, wide)
    return ops.where(ops.isnan(cells), nan, keys), nan


def _find_winners(keys: Array, nan: Array, bins: Array) -> Array:
    """(N, n * n, C) winning cell of every bin: the first of the greatest, but the last NaN."""
    keys, bins = ops.take(keys, bins, axis=1), bins[:, :, None]  # (N, n * n, k, C), (n * n, k, 1)
    best = ops.max(keys, axis=2, keepdims=True, initial=-nan)
    ranks = ops.where(ops.equal(best, nan), bins, -bins)
    ranks = ops.where(ops.equal(keys, best), ranks, LOWEST)
    return ops.abs(ops.max(ranks, axis=2, initial=LOWEST))


def _mean_of_bins(cells: Array, levels: list[tuple[Array, Array]]) -> list[Array]:
    """(N, n * n, C) mean of the cells (N, H * W, C) in every bin, for every level."""
    dtype = keras.backend.standardize_dtype(cells.dtype)
    wide = ops.cast(cells, "float64" if dtype == "float64" else "float32")
    means = []
    for bins, new in levels:
        # where, not a product: a repeat of infinity times 0 would be NaN
        kept = ops.where(new[:, :, None], ops.take(wide, bins, axis=1), 0.0)
        counts = ops.sum(ops.cast(new, wide.dtype), axis=1)[:, None]
        means.append(ops.cast(ops.sum(kept, axis=2) / counts, dtype))
    return means
