"""The contextual attention layer of DeepFill v1: holes are rebuilt from patches of kept pixels.

Source: Yu et al., "Generative Image Inpainting with Contextual Attention", CVPR 2018. `port=True`
computes like the PyTorch port; `contextual_attention.py` lists the differences.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

ATTENTION_RATE = 2
PATCH_SIZE = 3
SOFTMAX_SCALE = 10.0
MIN_NORM = 1e-4


def attend(
    foreground: jax.Array, background: jax.Array, mask: jax.Array, *, port: bool = False
) -> jax.Array:
    """Rebuilds the foreground from the patches of the background without a hole.

    With f, b and m halved by nearest neighbour, `p(f, i)` the 3 x 3 patch around cell i, and
    a_j = 1 if no cell of `p(m, j)` is a hole (cells beyond the border are not), else 0:

        s[i, j] = <p(f, i), p(b, j)> / |p(b, j)|
        t[i, j] = s[i - 1, j - 1] + s[i, j] + s[i + 1, j + 1], once along rows, once along columns
        w[i, j] = a_j softmax_j(10 a_j t[i, j])
        result  = sum over i and j of w[i, j] times the 4 x 4 patch of b at j, pasted at i, / 4

    The sum over neighbours makes coherent regions match. As published, the end of a row counts as a
    neighbour of the start of the next row, and patches with a hole take part in the softmax with
    score 0. If every patch has a hole, the result is 0; this is nearly always so for masks that
    keep each pixel independently with probability 1/2.

    Args:
        foreground: features to rebuild, float32 `[N, h, w, C]`, h and w even.
        background: features to copy from, float32, the shape of `foreground`.
        mask: binary mask, float32 `[N, h, w, 1]`, 1 = keep.
        port: whether to compute like the PyTorch port.

    Returns:
        Rebuilt features, float32, the shape of `foreground`.

    Raises:
        ValueError: the shapes differ, or h or w is odd.
    """
    height, width = foreground.shape[1:3]
    if foreground.shape != background.shape or height % 2 or width % 2:
        raise ValueError(
            f"foreground and background have shapes {foreground.shape} and {background.shape}; "
            "expected the same [N, h, w, C] with h and w even"
        )
    return jax.vmap(partial(_attend_one, port=port))(foreground, background, mask)


def _attend_one(
    foreground: jax.Array, background: jax.Array, mask: jax.Array, port: bool
) -> jax.Array:
    small = [nearest(x[None], ATTENTION_RATE, port)[0] for x in (foreground, background, mask)]
    height, width, _ = small[0].shape
    # One row per patch: matching and pasting are then matrix products, and no backend needs
    # convolutions whose kernels differ from image to image.
    queries, keys, kept = (
        _patches(x, PATCH_SIZE, 1).reshape(height * width, -1)
        for x in (small[0], small[1], small[2] - 1.0)
    )
    available = jnp.all(kept == 0.0, axis=1).astype(keys.dtype)
    squares = jnp.sum(jnp.square(keys), axis=1, keepdims=True)
    if port:
        norm = jnp.sqrt(squares + MIN_NORM * keys.shape[1])
    else:
        # The maximum is inside the root: outside, the gradient of an empty patch would be NaN.
        norm = jnp.sqrt(jnp.maximum(squares, MIN_NORM**2))
    scores = jnp.matmul(queries, (keys / norm).T, precision=jax.lax.Precision.HIGHEST)
    scores = _fuse(_fuse(scores, (height, width)), (width, height))
    weights = available * jax.nn.softmax(SOFTMAX_SCALE * available * scores, axis=1)

    cut = partial(_patches, size=2 * ATTENTION_RATE, stride=ATTENTION_RATE)
    patches = cut(background)
    pasted = (weights @ patches.reshape(height * width, -1)).reshape(patches.shape)
    # Pasting overlapping patches is the transpose of cutting them out.
    (result,) = jax.linear_transpose(cut, background)(pasted)
    return result / 4.0


def _fuse(scores: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Adds diagonal neighbours of `[cells, cells]`, then transposes rows and columns of cells."""
    cells = len(scores)
    padded = jnp.pad(scores, 1)
    total = sum(padded[i : i + cells, i : i + cells] for i in range(3))
    return jnp.reshape(total, (*shape, *shape)).transpose(1, 0, 3, 2).reshape(cells, cells)


def _patches(image: jax.Array, size: int, stride: int) -> jax.Array:
    """Cuts `[h, w, C]`, padded with zeros, into `[h / stride, w / stride, size * size, C]`."""
    height, width, _ = image.shape
    before = (size - stride) // 2
    after = size - stride - before
    padded = jnp.pad(image, ((before, after), (before, after), (0, 0)))
    shifts = [(y, x) for y in range(size) for x in range(size)]
    return jnp.stack(
        [padded[y : y + height : stride, x : x + width : stride] for y, x in shifts], axis=2
    )


def nearest(images: jax.Array, factor: int, port: bool) -> jax.Array:
    """Downsamples `[N, H, W, C]` by nearest neighbour, by an integer factor."""
    rows, columns = (_nearest_indices(n, n // factor, port) for n in images.shape[1:3])
    return images[:, rows][:, :, columns]


def _nearest_indices(size: int, count: int, port: bool) -> np.ndarray:
    if port or count == 1:
        return np.arange(count) * (size // count)
    step = np.float32(size - 1) / np.float32(count - 1)
    return np.floor(np.arange(count, dtype=np.float32) * step + np.float32(0.5)).astype(np.int32)
