"""Convolution with the lowering that suits the backend.

Arrays are `[N, H, W, C]` (channels last), kernels `[k, k, C, features]`.

In a compiled loop, as that of an optimisation, XLA takes a fast convolution on CPU only where the
axes of the kernel are in that order, which those of the input gradient that autodiff writes are
not: turned by hand, the gradient of a layer takes between a fifth and a half of the time. The first
layer of a network has few channels and another fast way each on CPU and on accelerators.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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
    """
    side = len(kernel)
    if side == 1 and not padding:
        # A matmul: same arithmetic, faster on CPU, equal elsewhere.
        return images[:, ::stride, ::stride] @ kernel[0, 0]
    pads: _Pads = ((padding or 0,) * 2,) * 2
    if padding is None:
        sides, strides = (side, side), (stride, stride)
        pads = tuple(lax.padtype_to_pads(images.shape[1:3], sides, strides, "SAME"))
    return _conv(images, kernel, stride, pads)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads) -> jax.Array:
    return lax.platform_dependent(
        images,
        kernel,
        cpu=partial(_on_cpu, stride=stride, pads=pads),
        default=partial(_on_accelerator, stride=stride, pads=pads),
    )


def _forward(
    images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(images, kernel, stride, pads), (images, kernel)


def _backward(
    stride: int, pads: _Pads, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def on_accelerator(
        images: jax.Array, kernel: jax.Array, cotangent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        layer = partial(_on_accelerator, stride=stride, pads=pads)
        return jax.vjp(layer, images, kernel)[1](cotangent)

    on_cpu = partial(_on_cpu_vjp, stride=stride, pads=pads)
    return lax.platform_dependent(*residuals, cotangent, cpu=on_cpu, default=on_accelerator)


_conv.defvjp(_forward, _backward)


def _on_accelerator(images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads) -> jax.Array:
    if stride > 1 and kernel.shape[2] <= _FEW and len(kernel) >= _WIDE:
        images, kernel = _fold_strides(images, kernel, stride, pads)
        stride, pads = 1, ((0, 0), (0, 0))
    return _convolve(images, kernel, stride, pads)


def _on_cpu(images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads) -> jax.Array:
    if kernel.shape[2] <= _FEW and len(kernel) <= _NARROW:
        return _multiply_windows(*_fold_strides(images, kernel, stride, pads))
    return _convolve(images, kernel, stride, pads)


def _on_cpu_vjp(
    images: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, pads: _Pads
) -> tuple[jax.Array, jax.Array]:
    # Linear in either, so that what is not asked for costs nothing.
    pull_back = jax.vjp(partial(_on_cpu, stride=stride, pads=pads), images, kernel)[1]
    from_images, from_kernel = pull_back(cotangent)
    if kernel.shape[2] > _FEW:
        from_images = _from_images(cotangent, kernel, images.shape, stride, pads)
    elif len(kernel) > _NARROW:
        # Of a wide kernel of few channels the gradient alone is faster folded.
        fold = partial(_fold_strides, kernel=kernel, stride=stride, pads=pads)
        folded, unfold, kernel = jax.vjp(fold, images, has_aux=True)
        shape = folded.shape
        (from_images,) = unfold(_from_images(cotangent, kernel, shape, 1, ((0, 0), (0, 0))))
    return from_images, from_kernel


def _from_images(
    cotangent: jax.Array, kernel: jax.Array, shape: tuple[int, ...], stride: int, pads: _Pads
) -> jax.Array:
    """Computes the cotangent of images of a shape, the axes of the kernel in their order."""
    # Window i of the spread cotangent holds all that image pixel i has gone into.
    around = []
    for (low, _), length, out in zip(pads, shape[1:3], cotangent.shape[1:3], strict=True):
        around.append((len(kernel) - 1 - low, length - ((out - 1) * stride + 1) + low))
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    return _convolve(cotangent, turned, 1, tuple(around), spread=stride)


def _convolve(
    images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads, spread: int = 1
) -> jax.Array:
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        pads,
        lhs_dilation=(spread, spread),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _multiply_windows(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves without padding or stride, as the product of all windows and the kernel."""
    side, *_, features = kernel.shape
    rows, columns = (length - side + 1 for length in images.shape[1:3])
    windows = [images[:, i : i + rows, j : j + columns] for i, j in np.ndindex(side, side)]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, features)


def _fold_strides(
    images: jax.Array, kernel: jax.Array, stride: int, pads: _Pads
) -> tuple[jax.Array, jax.Array]:
    """Returns images and a kernel that give the same without padding or stride."""
    side = len(kernel)
    behind = -side % stride  # Zeros, so that the kernel folds as the images do.
    kernel = jnp.pad(kernel, ((0, behind), (0, behind), (0, 0), (0, 0)))
    around = [(0, 0, 0)]
    for length, (low, high) in zip(images.shape[1:3], pads, strict=True):
        steps = (length + low + high - side) // stride
        # Below zero where the last pixels are in no window.
        around.append((low, steps * stride + len(kernel) - low - length, 0))
    images = lax.pad(images, jnp.zeros((), images.dtype), [*around, (0, 0, 0)])
    return _fold(images, stride), jnp.moveaxis(_fold(jnp.moveaxis(kernel, 3, 0), stride), 0, 3)


def _fold(images: jax.Array, side: int) -> jax.Array:
    """Maps `[N, H, W, C]` to `[N, H / side, W / side, side side C]`."""
    count, height, width, channels = images.shape
    rows, columns = height // side, width // side
    grid = images.reshape(count, rows, side, columns, side, channels)
    return jnp.swapaxes(grid, 2, 3).reshape(count, rows, columns, -1)
