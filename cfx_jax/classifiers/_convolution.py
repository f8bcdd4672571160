"""Convolution with the lowering that suits the backend.

Arrays are `[N, H, W, C]` (channels last), kernels `[k, k, C, features]`.

In the body of a compiled loop, such as an optimisation, XLA on CPU uses its fast convolution only
if the axes of the kernel are in this order. The kernel of the input gradient that autodiff writes
has another order. The derivative here therefore starts from a transposed kernel, which autodiff
transposes back, and the gradient of a layer takes between a fifth and a half of the time. The first
layer of a network has few channels; it has one special lowering on CPU and one on accelerators.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

_Pads = tuple[tuple[int, int], ...]

# Largest number of input channels that counts as an image. Three channels do not fill the matrix
# unit of an accelerator, and the gradient of a strided convolution multiplies mostly zeros.
_MAX_IMAGE_CHANNELS = 4
# Smallest kernel folded on accelerators, that of the first layer of a ResNet. `stride x stride`
# pixels are folded into channels: a 7 x 7 kernel on 3 channels with stride 2 becomes 4 x 4 on 12
# channels with stride 1. On an H200 this layer was the most expensive kernel of an explanation. On
# CPU, folding takes 4 times as long without the gradient, and 1.5 times as long with it.
_MIN_FOLDED_KERNEL = 7
# Largest kernel computed as a matmul of windows on CPU, that of the first layer of an EfficientNet:
# with the gradient it takes two thirds of the time of the general lowering.
_MAX_MATMUL_KERNEL = 3


def conv(
    images: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | None = 0
) -> jax.Array:
    """Convolves images with a kernel.

    Args:
        images: images, float `[N, H, W, C]`.
        kernel: kernel, float `[k, k, C, features]`.
        stride: step of the output grid in both directions.
        padding: number of zeros on each side, or None for SAME as TensorFlow defines it.

    Returns:
        Feature maps, float `[N, h, w, features]`.

    Raises:
        ValueError: the images do not have four axes.
    """
    if images.ndim != 4:
        raise ValueError(f"images are {images.shape}; expected a batch, [N, H, W, C]")
    pads: _Pads = ((padding or 0,) * 2,) * 2
    if padding is None:
        sides, strides = kernel.shape[:2], (stride, stride)
        pads = tuple(lax.padtype_to_pads(images.shape[1:3], sides, strides, "SAME"))
    return convolve(images, kernel, stride, pads)


def convolve(images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads) -> jax.Array:
    """Convolves every window with the kernel; `conv` with any padding.

    Args:
        images: float `[N, H, W, C]`.
        kernel: float `[k, k, C, features]`.
        stride: step of the output grid in both directions.
        pads: zeros before and after each of the two spatial axes.

    Returns:
        float `[N, h, w, features]`.
    """
    if len(kernel) == 1 and not any(map(any, pads)):
        # A matmul: the same arithmetic, faster on CPU and equally fast elsewhere.
        return images[:, ::stride, ::stride] @ kernel[0, 0]
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
        on_cpu = partial(_on_cpu, stride=stride, pads=pads, transposed=True)
        default = partial(_on_accelerator, stride=stride, pads=pads)
        parts.append(lax.platform_dependent(tangents[0], kernel, cpu=on_cpu, default=default))
    if not isinstance(tangents[1], SymbolicZero):
        parts.append(_conv(images, tangents[1], stride, pads))
    return _conv(images, kernel, stride, pads), sum(parts[1:], parts[0])


# With symbolic zeros, no convolution is computed for an argument without a tangent.
_conv.defjvp(_jvp, symbolic_zeros=True)


def _on_accelerator(images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads) -> jax.Array:
    is_image = kernel.shape[2] <= _MAX_IMAGE_CHANNELS
    if stride > 1 and is_image and len(kernel) >= _MIN_FOLDED_KERNEL:
        images, kernel = _fold_strides(images, kernel, stride, pads)
        stride, pads = 1, ((0, 0), (0, 0))
    return _convolve(images, kernel, stride, pads)


def _on_cpu(
    images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads, transposed: bool = False
) -> jax.Array:
    is_image = kernel.shape[2] <= _MAX_IMAGE_CHANNELS
    if is_image and len(kernel) <= _MAX_MATMUL_KERNEL:
        return _multiply_windows(*_fold_strides(images, kernel, stride, pads))
    if is_image and transposed:  # For a large kernel, folding makes only the gradient faster.
        images, kernel = _fold_strides(images, kernel, stride, pads)
        stride, pads = 1, ((0, 0), (0, 0))
    return _convolve(images, kernel, stride, pads, transposed)


def _convolve(
    images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads, transposed: bool = False
) -> jax.Array:
    """Convolves; with `transposed` slowly, but then the transpose, the input gradient, is fast."""
    axes = "HWIO"
    if transposed:
        kernel, axes = jnp.swapaxes(kernel, 2, 3), "HWOI"
    numbers = ("NHWC", axes, "NHWC")
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), pads, dimension_numbers=numbers
    )


def _multiply_windows(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves without padding or stride, as a matmul of all windows with the kernel."""
    side, _, channels, features = kernel.shape
    rows, columns = (length - side + 1 for length in images.shape[1:3])
    windows = [images[:, i : i + rows, j : j + columns] for i, j in np.ndindex(side, side)]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(side * side * channels, features)


def _fold_strides(
    images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads
) -> tuple[jax.Array, jax.Array]:
    """Returns images and a kernel with the same convolution, without padding or stride."""
    side = len(kernel)
    kernel_pad = -side % stride  # Pads the kernel to a multiple of the stride.
    kernel = jnp.pad(kernel, ((0, kernel_pad), (0, kernel_pad), (0, 0), (0, 0)))
    image_pads = [(0, 0, 0)]
    for length, (low, high) in zip(images.shape[1:3], pads, strict=True):
        steps = max((length + low + high - side) // stride, -1)  # -1: the image has no window.
        # The padding is negative if the last pixels belong to no window.
        image_pads.append((low, steps * stride + len(kernel) - low - length, 0))
    images = lax.pad(images, jnp.zeros((), images.dtype), [*image_pads, (0, 0, 0)])
    return _fold(images, stride), jnp.moveaxis(_fold(jnp.moveaxis(kernel, 3, 0), stride), 0, 3)


def _fold(images: jax.Array, side: int) -> jax.Array:
    """Maps `[N, H, W, C]` to `[N, H / side, W / side, side side C]`."""
    count, height, width, channels = images.shape
    rows, columns = height // side, width // side
    grid = images.reshape(count, rows, side, columns, side, channels)
    return jnp.swapaxes(grid, 2, 3).reshape(count, rows, columns, side * side * channels)
