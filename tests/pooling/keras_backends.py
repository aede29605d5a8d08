"""What the checks of the Keras layer need of a backend: tensors, gradients, compilation."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import torch

BACKEND = keras.backend.backend()


def to_keras(maps: torch.Tensor, data_format: str = "channels_last") -> Any:
    """(N, C, H, W), or vectors, as a tensor of the backend in a data format."""
    dtype = str(maps.dtype).removeprefix("torch.")
    if maps.ndim == 4 and data_format == "channels_last":
        maps = maps.permute(0, 2, 3, 1)
    wide = maps.double() if dtype == "float64" else maps.float()  # numpy has no bfloat16
    given = keras.ops.convert_to_tensor(wide.detach().contiguous().numpy())
    return given if wide.dtype == maps.dtype else keras.ops.cast(given, dtype)


def to_torch(array: Any, data_format: str = "channels_first") -> torch.Tensor:
    """Maps or vectors of the backend as float64, maps as (N, C, H, W)."""
    given = array.detach().double() if isinstance(array, torch.Tensor) else np.asarray(array)
    values = torch.from_numpy(np.array(given, dtype="float64"))
    return values.permute(0, 3, 1, 2) if data_format == "channels_last" else values


def exact(actual: Any, expected: torch.Tensor, data_format: str = "channels_first") -> None:
    """Fail unless the numbers are the same to the last bit, signs of zeros included."""
    actual, expected = to_torch(actual, data_format), expected.detach().double()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    numbers = ~expected.isnan()
    assert torch.equal(actual[numbers].signbit(), expected[numbers].signbit()), "signs of zeros"


def near(actual: Any, expected: torch.Tensor, data_format: str = "channels_first") -> None:
    """Fail unless the numbers are the same up to the rounding of their own dtype."""
    rtol = 4 * torch.finfo(expected.dtype).eps
    expected = expected.detach().double()
    actual = to_torch(actual, data_format)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol, equal_nan=True)


def gradient(function: Callable, maps: Any, upstream: torch.Tensor) -> Any:
    """Gradient of (function(maps) * upstream).sum() by the backend's own differentiation."""
    weights = to_keras(upstream)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(maps)
            pooled = function(maps)
        return tape.gradient(pooled, maps, output_gradients=weights)
    if BACKEND == "jax":
        import jax

        return jax.vjp(function, maps)[1](weights)[0]
    maps = maps.clone().requires_grad_()
    return torch.autograd.grad(function(maps), maps, weights)[0]


def compile_forms(function: Callable) -> Iterator[Callable]:
    """Function of maps (N, H, W, 3) in every form that the backend compiles it to."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        any_size = [tf.TensorSpec((None, None, None, 3))]
        yield tf.function(function)
        yield tf.function(function, input_signature=any_size)
        yield tf.function(function, input_signature=any_size, jit_compile=True)
    elif BACKEND == "jax":
        import jax

        yield jax.jit(function)
    else:
        torch.compiler.reset()
        yield torch.compile(function, backend="eager", fullgraph=True)
