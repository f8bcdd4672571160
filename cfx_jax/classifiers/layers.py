"""Layers shared by several classifiers, channels last, with the explicit padding of PyTorch.

Batch normalisation is folded into the convolutions when weights are loaded, so a layer consists of
a kernel and a bias, and no network here has a training mode.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cfx_jax.classifiers._convolution import conv
from cfx_jax.classifiers._depthwise import depthwise_conv

# Coefficients of the tanh approximation of the GELU.
_TANH_SCALE, _TANH_CUBE = (2.0 / math.pi) ** 0.5, 0.044715


class Conv(nn.Module):
    """Convolution and bias; parameters `kernel [k, k, C, features]`, `bias [features]`.

    Attributes:
        features: number of output channels.
        kernel: side of the kernel in pixels.
        stride: step of the output grid in both directions.
        padding: number of zeros on each side, or None for SAME as TensorFlow defines it.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    padding: int | None = 0

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Convolves `[N, H, W, C]` and adds the bias."""
        shape = (self.kernel, self.kernel, images.shape[-1], self.features)
        # float32, like the published weights, even if the program enables float64.
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return conv(images, kernel, self.stride, self.padding) + bias


class Depthwise(nn.Module):
    """Depthwise convolution and bias; parameters `kernel [k, k, 1, C]`, `bias [C]`."""

    kernel: int
    stride: int = 1

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Convolves `[N, H, W, C]` with SAME padding and adds the bias."""
        channels = images.shape[-1]
        shape = (self.kernel, self.kernel, 1, channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        return depthwise_conv(images, kernel, self.stride) + bias


class Patches(nn.Module):
    """Linear map of each patch; parameters `kernel [patch, patch, C, features]`, `bias`."""

    patch: int
    features: int

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, H // patch, W // patch, features]`."""
        return self.grid(images)

    @nn.compact
    def grid(self, images: jax.Array) -> jax.Array:
        """Does the same under another name, so that Grad-CAM ignores patches that are tokens."""
        count, height, width, channels = images.shape
        side = self.patch
        rows, columns = height // side, width // side
        shape = (side, side, channels, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        # A matmul, because the input gradient of a strided convolution is a dilated convolution,
        # which multiplies mostly zeros and is more than ten times slower on CPU.
        whole = images[:, : rows * side, : columns * side]
        grid = jnp.swapaxes(whole.reshape(count, rows, side, columns, side, channels), 2, 3)
        flat = grid.reshape(count, rows, columns, side * side * channels)
        return flat @ kernel.reshape(-1, self.features) + bias


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def gelu(inputs: jax.Array, tanh: bool = False) -> jax.Array:
    """Computes `x Phi(x)`, with the normal distribution function `Phi` or its tanh approximation.

    The two differ by 4.7e-4 at most: 0.02 % of the logits and 0.05 % of the input gradient of a
    ViT-B/16 with random weights.
    """
    return inputs * _gelu_share(inputs, tanh)


def _gelu_share(x: jax.Array, tanh: bool) -> jax.Array:
    if tanh:
        return 0.5 + 0.5 * jnp.tanh(_TANH_SCALE * (x + _TANH_CUBE * x**3))
    # Not erfc as in `nn.gelu`, which takes XLA on CPU 2.5 times as long.
    return 0.5 + 0.5 * lax.erf(x * 0.5**0.5)


@gelu.defjvp
def _gelu_jvp(
    tanh: bool, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    share = _gelu_share(x, tanh)
    if tanh:
        inner = _TANH_SCALE * (1.0 + 3.0 * _TANH_CUBE * x**2)
        density = 2.0 * share * (1.0 - share) * inner
    else:
        density = jnp.exp(-0.5 * x**2) * (2.0 * math.pi) ** -0.5
    # The derivative is between -0.13 and 1.13, so the clamp does not change it. The clamp prevents
    # XLA on CPU from fusing the derivative into the next matmul, where each constant would become
    # an array: a ConvNeXt block with its input gradient takes 0.7 of the time.
    low, high = (jnp.asarray(bound, x.dtype) for bound in (-1.0, 2.0))
    return x * share, lax.clamp(low, share + x * density, high) * tangent


def tiled_max_pool(images: jax.Array, size: int) -> jax.Array:
    """Takes the maximum over adjacent windows of `size x size` pixels.

    It is 2.6 times as fast on CPU as `flax.linen.max_pool`, whose gradient searches its windows.
    Equal maxima share the gradient, whereas `max_pool` assigns it to the first maximum. After a
    ReLU, equal maxima are zeros, which have no gradient.
    """
    n, height, width, channels = images.shape
    rows, columns = height // size, width // size
    tiles = images[:, : rows * size, : columns * size]
    return jnp.max(tiles.reshape(n, rows, size, columns, size, channels), axis=(2, 4))


def halve(images: jax.Array) -> jax.Array:
    """Averages windows of 2 x 2 pixels; the last row or column of an odd side is repeated."""
    n, height, width, channels = images.shape
    pads = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    tiles = jnp.pad(images, pads, mode="edge")
    return tiles.reshape(n, -(-height // 2), 2, -(-width // 2), 2, channels).mean((2, 4))


def adaptive_mean_pool(images: jax.Array, size: int) -> jax.Array:
    """Averages `[N, H, W, C]` over a grid of `size x size` windows that cover the image.

    Window i of n covers the rows floor(i H / n) to ceil((i + 1) H / n), as in PyTorch.

    Raises:
        ValueError: the height or width is 0, because the input image was too small.
    """
    if 0 in images.shape[1:3]:
        raise ValueError(
            "the images are too small for this network: after its strides no pixel is left; "
            "resize them, preferably to the image_size of the classifier"
        )
    if images.shape[1:3] == (size, size):
        return images
    rows, columns = (_window_weights(n, size) for n in images.shape[1:3])
    return jnp.einsum("yh,nhwc,xw->nyxc", rows, images, columns, precision=lax.Precision.HIGHEST)


def flatten(images: jax.Array) -> jax.Array:
    """Flattens `[N, H, W, C]` to `[N, C H W]`, in the order of PyTorch's channels-first images."""
    return jnp.moveaxis(images, -1, 1).reshape(len(images), -1)


def _window_weights(length: int, count: int) -> np.ndarray:
    weights = np.zeros((count, length), np.float32)
    for i in range(count):
        window = slice(i * length // count, -(-(i + 1) * length // count))
        weights[i, window] = 1.0 / (window.stop - window.start)
    return weights
