"""Convolution with the lowering that suits the backend.

Arrays are `[N, H, W, C]` (channels last), kernels `[k, k, C, features]`.

In the body of a compiled loop, as that of an optimisation, XLA takes a fast convolution on CPU only
where the axes of the kernel are in that order. Those of the input gradient that autodiff writes are
not, and so the derivative here begins with a kernel turned the other way: autodiff turns it back,
and the gradient of a layer takes between a fifth and a half of the time. The first layer of a
network has few channels and another fast way each on CPU and on accelerators.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

_Pads = tuple[tuple[int, int], ...]

# Channels of an image. Three fill no matrix unit of an accelerator, and the gradient of a stride
# multiplies mostly zeros.
_FEW = 4
# The first layer of a ResNet has a kernel this wide. On accelerators the `stride x stride` pixels
# are folded into channels: 7 x 7 of 3 with stride 2 are 4 x 4 of 12 with stride 1. On an H200 this
# layer was the dearest kernel of an explanation. On CPU, folded takes 4 times as long without the
# gradient, and half as long again with it.
_WIDE = 7
# Of a kernel this narrow, as of an EfficientNet, the windows are few enough to be a matmul on CPU:
# with the gradient two thirds of the time of the way of other layers.
_NARROW = 3


def conv(
    images: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | None = 0
) -> jax.Array:
    """Convolves every window with the kernel.

    Args:
        images: float `[N, H, W, C]`.
        kernel: float `[k, k, C, features]`.
        stride: step of the output grid in both directions.
        padding: zeros on each side, or None for SAME as TensorFlow defines it.

    Returns:
        float `[N, h, w, features]`.

    Raises:
        ValueError: the images are no batch.
    """
    if images.ndim != 4:
        raise ValueError(f"images are {images.shape}; expected a batch, [N, H, W, C]")
    side = len(kernel)
    if side == 1 and not padding:
        # A matmul: same arithmetic, faster on CPU, equal elsewhere.
        return images[:, ::stride, ::stride] @ kernel[0, 0]
    pads: _Pads = ((padding or 0,) * 2,) * 2
    if padding is None:
        sides, strides = (side, side), (stride, stride)
        pads = tuple(lax.padtype_to_pads(images.shape[1:3], sides, strides, "SAME"))
    return _conv(images, kernel, stride, pads)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv(images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads) -> jax.Array:
    return lax.platform_dependent(
        images,
        kernel,
        cpu=partial(_on_cpu, stride=stride, pads=pads),
        default=partial(_on_accelerator, stride=stride, pads=pads),
    )


def _jvp(
    stride: int, pads: _Pads, primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, Any]:
    images, kernel = primals
    parts = []
    if not isinstance(tangents[0], SymbolicZero):
        on_cpu = partial(_on_cpu, stride=stride, pads=pads, turned=True)
        default = partial(_on_accelerator, stride=stride, pads=pads)
        parts.append(lax.platform_dependent(tangents[0], kernel, cpu=on_cpu, default=default))
    if not isinstance(tangents[1], SymbolicZero):
        parts.append(_conv(images, tangents[1], stride, pads))
    return _conv(images, kernel, stride, pads), sum(parts[1:], parts[0])


# A kernel that nobody asks for a derivative of would be convolved with zeros otherwise.
_conv.defjvp(_jvp, symbolic_zeros=True)


def _on_accelerator(images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads) -> jax.Array:
    if stride > 1 and kernel.shape[2] <= _FEW and len(kernel) >= _WIDE:
        images, kernel = _fold_strides(images, kernel, stride, pads)
        stride, pads = 1, ((0, 0), (0, 0))
    return _convolve(images, kernel, stride, pads)


def _on_cpu(
    images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads, turned: bool = False
) -> jax.Array:
    if kernel.shape[2] <= _FEW and len(kernel) <= _NARROW:
        return _multiply_windows(*_fold_strides(images, kernel, stride, pads))
    if kernel.shape[2] <= _FEW and turned:  # Of a wide kernel the gradient alone is faster folded.
        images, kernel = _fold_strides(images, kernel, stride, pads)
        stride, pads = 1, ((0, 0), (0, 0))
    return _convolve(images, kernel, stride, pads, turned)


def _convolve(
    images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads, turned: bool = False
) -> jax.Array:
    """Convolves; `turned` is slow by itself, and its transpose, the input gradient, fast."""
    axes = "HWIO"
    if turned:
        kernel, axes = jnp.swapaxes(kernel, 2, 3), "HWOI"
    numbers = ("NHWC", axes, "NHWC")
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), pads, dimension_numbers=numbers
    )


def _multiply_windows(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves without padding or stride, as the product of all windows and the kernel."""
    side, _, channels, features = kernel.shape
    rows, columns = (length - side + 1 for length in images.shape[1:3])
    windows = [images[:, i : i + rows, j : j + columns] for i, j in np.ndindex(side, side)]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(side * side * channels, features)


def _fold_strides(
    images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads
) -> tuple[jax.Array, jax.Array]:
    """Returns images and a kernel that give the same without padding or stride."""
    side = len(kernel)
    behind = -side % stride  # Zeros, so that the kernel folds as the images do.
    kernel = jnp.pad(kernel, ((0, behind), (0, behind), (0, 0), (0, 0)))
    around = [(0, 0, 0)]
    for length, (low, high) in zip(images.shape[1:3], pads, strict=True):
        steps = max((length + low + high - side) // stride, -1)  # Of too small an image no window.
        # Below zero where the last pixels are in no window.
        around.append((low, steps * stride + len(kernel) - low - length, 0))
    images = lax.pad(images, jnp.zeros((), images.dtype), [*around, (0, 0, 0)])
    return _fold(images, stride), jnp.moveaxis(_fold(jnp.moveaxis(kernel, 3, 0), stride), 0, 3)


def _fold(images: jax.Array, side: int) -> jax.Array:
    """Maps `[N, H, W, C]` to `[N, H / side, W / side, side side C]`."""
    count, height, width, channels = images.shape
    rows, columns = height // side, width // side
    grid = images.reshape(count, rows, side, columns, side, channels)
    return jnp.swapaxes(grid, 2, 3).reshape(count, rows, columns, side * side * channels)
