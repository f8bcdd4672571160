"""Convolution and pooling of the classifiers, channels last, with the explicit padding of PyTorch.

Batch normalisation is folded into the convolutions when weights are read, so a layer is a kernel
and a bias and no network here has a train mode to forget.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Conv(nn.Module):
    """Convolution and bias; parameters `kernel [k, k, C, features]`, `bias [features]`.

    Attributes:
        features: channels of the result.
        kernel: side of the kernel in pixels.
        stride: step of the output grid in both directions.
        padding: zeros on each side, or None for SAME as TensorFlow defines it.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    padding: int | None = 0

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Convolves `[N, H, W, C]`, adds the bias."""
        shape = (self.kernel, self.kernel, images.shape[-1], self.features)
        # float32 even where a program enables float64, as the published weights.
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return conv(images, kernel, self.stride, self.padding) + bias


def conv(
    images: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | None = 0
) -> jax.Array:
    """Convolves `[N, H, W, C]` with `[k, k, C, features]`; see the attributes of `Conv`."""
    if kernel.shape[0] == 1 and not padding:
        # A matmul: same arithmetic, faster on CPU, equal elsewhere.
        return images[:, ::stride, ::stride] @ kernel[0, 0]
    pads = "SAME" if padding is None else [(padding, padding)] * 2
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def tiled_max_pool(images: jax.Array, size: int) -> jax.Array:
    """Takes the maximum of windows of `size x size` pixels side by side.

    2.6 times as fast on CPU as `flax.linen.max_pool`, whose gradient searches its windows. Equal
    maxima share the gradient instead of the first one having it; behind a ReLU these are zeros,
    which pass none on.
    """
    n, height, width, channels = images.shape
    rows, columns = height // size, width // size
    tiles = images[:, : rows * size, : columns * size]
    return jnp.max(tiles.reshape(n, rows, size, columns, size, channels), axis=(2, 4))


def adaptive_mean_pool(images: jax.Array, size: int) -> jax.Array:
    """Averages `[N, H, W, C]` over a grid of `size x size` windows that cover the image.

    Window i of n covers the rows floor(i H / n) to ceil((i + 1) H / n), as in PyTorch.

    Raises:
        ValueError: the layers before have left nothing of the images.
    """
    if 0 in images.shape[1:3]:
        raise ValueError(
            "the images are too small for this network: its strides leave nothing to average; "
            "resize them, best to the image_size of the classifier"
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
