"""The mask law: how masks are drawn from what is learnt of each cell, and how it is shown.

Learnt is one number a cell, `cells [h, w]`: the logit of KEEPING it, or, where a law draws nothing,
the mask itself. Masks are `[S, H, W, 1]`, 1 = KEEP the pixel, 0 = in-fill it.
"""

import dataclasses
import enum
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr

# Keeps the logarithm of a probability finite where float32 ends, and its slope, summed over the
# pixels of a cell, too. Logits saturate at log(1e30) = 69.
_FLOOR = 1e-30


# float32 probabilities stop short of 0 and 1 by about this much; keeps logits finite in float16.
_LOGIT_EPSILON = 1e-7

# Of `smooth_noise`, in spacings of its grid: the width of a Gaussian, and how far it matters.
_GAUSSIAN = 0.6
_REACH = 2
# In pixels.
_FINEST = 0.5
# Masks are float32, whatever JAX_ENABLE_X64 says.
_logistic = functools.partial(jax.random.logistic, dtype=jnp.float32)
_uniform = functools.partial(jax.random.uniform, dtype=jnp.float32)


@jax.custom_jvp
def _sigmoid(logits: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(logits)


# Not p (1 - p), which is zero from a logit of 17 on.
_sigmoid.defjvps(lambda tangent, p, logits: tangent * p * jax.nn.sigmoid(-logits))


class Relaxation(enum.Enum):
    """How masks are drawn from the keep probability p of a pixel.

    CONCRETE: `sigmoid((logit p + logistic noise) / temperature)`, as published.
    DETERMINISTIC: p itself, no noise; one mask, as in BBMP.
    """

    CONCRETE = "concrete"
    DETERMINISTIC = "deterministic"


class KeepMap(NamedTuple):
    """The mask distribution at the pixels of the image, all float32 `[H, W]`.

    Attributes:
        keep: probability of keeping the pixel.
        drop: probability of dropping it, computed on its own: `1 - keep` loses all digits near 1.
        logit: `log(keep) - log(drop)`.
    """

    keep: jax.Array
    drop: jax.Array
    logit: jax.Array


@dataclasses.dataclass(frozen=True)
class MaskLaw:
    """How masks are drawn from what is learnt: one value for learning, judging and showing.

    Attributes:
        relaxation: how a mask follows from the keep probability of a pixel.
        temperature: of the noise while a mask is learnt.
        block_size: side of the squares whose pixels share one draw of the noise, in pixels.
        smooth_scale: distance over which noise that changes smoothly changes, as a share of the
            shorter side of the image; 0 = none.
        sharpness: what the logits were multiplied by after they were learnt, see `show`.

    Example:
        >>> law = MaskLaw(Relaxation.CONCRETE)
        >>> pixels = law.keep_map(law.start(0.2, (4, 4)), (8, 8))
        >>> masks, holes = law.draw(jax.random.key(0), pixels, num_samples=3)
        >>> masks.shape, holes.shape, round(float(pixels.keep.mean()), 3)
        ((3, 8, 8, 1), (3, 8, 8, 1), 0.2)
    """

    relaxation: Relaxation
    temperature: float = 0.1
    block_size: int = 1
    smooth_scale: float = 0.0
    sharpness: float = 1.0

    @property
    def draws(self) -> bool:
        """Whether there is any noise; without it the cells are the mask itself."""
        return self.relaxation is Relaxation.CONCRETE

    def start(self, keep_prob: float, shape: tuple[int, int]) -> jax.Array:
        """Returns cells `[h, w]` that are all kept with one probability."""
        value = jax.scipy.special.logit(keep_prob) if self.draws else keep_prob
        return jnp.full(shape, value, jnp.float32)

    def confine(self, cells: jax.Array) -> jax.Array:
        """Brings cells back to where they mean something, after a step of the optimiser."""
        return cells if self.draws else jnp.clip(cells, 0.0, 1.0)

    def keep_prob(self, cells: jax.Array) -> jax.Array:
        """Returns the probability of keeping each cell."""
        return _sigmoid(cells) if self.draws else cells

    def mask_logits(self, cells: jax.Array) -> jax.Array:
        """Returns the logit of keeping each cell, finite."""
        if self.draws:
            return cells
        return jax.scipy.special.logit(jnp.clip(cells, _LOGIT_EPSILON, 1.0 - _LOGIT_EPSILON))

    def cells(self, mask_logits: jax.Array) -> jax.Array:
        """Undoes `mask_logits`."""
        return mask_logits if self.draws else jax.nn.sigmoid(mask_logits)

    def keep_map(self, cells: jax.Array, size: tuple[int, int]) -> KeepMap:
        """Upsamples the keep PROBABILITY to the pixels and returns it with its logit.

        `logit(U sigmoid(l)) = log(U sigmoid(l)) - log(U sigmoid(-l))`, because the weights of U add
        up to one; no probability is ever subtracted from one, so nothing overflows as it nears 0
        or 1. Differs from the published code under a smooth law, which upsamples the logit: there
        the edge of a region is as sharp as the logits are steep, and not as wide as a cell.

        Args:
            cells: float32 `[h, w]`.
            size: `(H, W)` of the image.

        Returns:
            A `KeepMap`.
        """
        if self.smooth_scale:
            logit = upsample(cells, size)
            return KeepMap(jax.nn.sigmoid(logit), jax.nn.sigmoid(-logit), logit)
        drop_prob = jax.nn.sigmoid(-cells) if self.draws else 1.0 - cells
        keep, drop = upsample(self.keep_prob(cells), size), upsample(drop_prob, size)
        # What keep gains drop loses, so that one map of slopes goes back to the cells, and not two;
        # the values stay apart.
        drop = jax.lax.stop_gradient(drop) + (jax.lax.stop_gradient(keep) - keep)
        return KeepMap(keep, drop, jnp.log(keep + _FLOOR) - jnp.log(drop + _FLOOR))

    def draw(
        self, key: jax.Array, pixels: KeepMap, num_samples: int
    ) -> tuple[jax.Array, jax.Array]:
        """Draws the masks of one step.

        CONCRETE: `z = sigmoid((logit + e) / T)` with standard logistic noise e, which neighbours
        share in blocks (`block_noise`) or nearly so (`smooth_noise`);
        `round(z)` is, pixel by pixel, an exact Bernoulli(keep) sample at any temperature.
        DETERMINISTIC: z = keep, and whatever it does not keep whole is a hole.

        Args:
            key: random key.
            pixels: the mask distribution at the pixels.
            num_samples: S.

        Returns:
            `(masks, holes)`, float32 `[S, H, W, 1]`: blend weights, and the zeros and ones that the
            generator is shown.
        """
        shape = (num_samples, *pixels.keep.shape)
        if not self.draws:
            masks = jnp.broadcast_to(pixels.keep, shape)
            # The interpolation weights of a pixel add up to one only within rounding.
            return masks[..., None], (masks > 1.0 - 1e-6).astype(jnp.float32)[..., None]
        if self.smooth_scale:
            field = smooth_noise(key, shape, self.smooth_scale * min(pixels.keep.shape))
            noise = log_ndtr(field) - log_ndtr(-field)
        else:
            noise = block_noise(_logistic, key, shape, self.block_size)
        # A map for each mask, whose derivative is a sum of slices; that of a broadcast one is a
        # reduction over few numbers far apart, 4 % of a step of EfficientNet-Lite0 on a CPU.
        perturbed = (jnp.stack([pixels.logit] * num_samples) + noise)[..., None]
        holes = (perturbed > 0).astype(jnp.float32)
        return jax.nn.sigmoid(perturbed / self.temperature), holes

    def draw_hard(self, key: jax.Array, pixels: KeepMap) -> jax.Array:
        """Draws one mask `[1, H, W, 1]` of zeros and ones; every pixel is kept with its `keep`."""
        shape = (1, *pixels.keep.shape)
        if self.smooth_scale:
            shares = ndtr(smooth_noise(key, shape, self.smooth_scale * min(pixels.keep.shape)))
        else:
            shares = block_noise(_uniform, key, shape, self.block_size)
        return (shares < pixels.keep).astype(jnp.float32)[..., None]

    def show(
        self,
        cells: Any,
        size: tuple[int, int],
        sigmoid: Callable[[Any], Any] = jax.nn.sigmoid,
        enlarge: Callable[[np.ndarray, Any, np.ndarray], Any] | None = None,
    ) -> Any:
        """Maps cells to how much each pixel is kept, in [0, 1], for people and measures.

        The LOGIT is upsampled here, not the probability, as in the published code, which then
        subtracts 1/2. A mask learnt in blocks tells blocks apart, not the pixels in them, so there
        a pixel is kept as much as the blocks that may hold it, on average over `block_noise`. Where
        logits were sharpened they are shown as they were learnt: what is above 1/2 is the same, and
        inside and outside of it the map still tells more from less.

        Args:
            cells: float32 `[h, w]`.
            size: `(H, W)` of the image.
            sigmoid: logistic function of the cells' kind of array, that of JAX or of NumPy.
            enlarge: of that kind, `rows [H, h], cells [h, w], columns [W, w] -> [H, W]`; None is
                that of JAX.

        Returns:
            float32 `[H, W]`.
        """
        enlarge = enlarge or _enlarge
        rows, columns = (interpolation(n, m) for n, m in zip(size, cells.shape, strict=True))
        pixels = enlarge(rows, cells, columns) / self.sharpness
        keep = sigmoid(pixels) if self.draws else pixels.clip(0.0, 1.0)
        if self.block_size > 1:
            rows, columns = (average_blocks(length, self.block_size) for length in size)
            # Weights add up to one only within rounding.
            keep = enlarge(rows, keep, columns).clip(0.0, 1.0)
        return keep


def upsample(cells: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Enlarges `[h, w]` to `size` bilinearly with the corners aligned.

    Differs from `jax.image.resize`, which aligns half-pixel borders: here corner cells map exactly
    onto corner pixels, as in the framework of the published code.

    Args:
        cells: float32 `[h, w]`.
        size: `(H, W)`, at least `(h, w)`.

    Returns:
        float32 `[H, W]`.
    """
    rows, columns = (interpolation(n, m) for n, m in zip(size, cells.shape, strict=True))
    return _enlarge(rows, cells, columns)


def block_noise(
    sample: Callable[[jax.Array, tuple[int, ...]], jax.Array],
    key: jax.Array,
    shape: tuple[int, ...],
    block_size: int,
) -> jax.Array:
    """Draws noise that the pixels of a block share; every pixel by itself has the law of `sample`.

    Differs from the published code for blocks of more than one pixel.

    Args:
        sample: of a key and a shape, such as `jax.random.logistic`.
        key: random key.
        shape: `(S, H, W)`.
        block_size: side of the blocks, in pixels.

    Returns:
        `[S, H, W]`.
    """
    if block_size == 1:
        return sample(key, shape)
    block_key, corner_key = jax.random.split(key)
    count, height, width = shape
    # One more than fits, because the first is cut off by a random corner: without it, the seams
    # would lie at the same pixels in every mask.
    grid = (-(-height // block_size) + 1, -(-width // block_size) + 1)
    blocks = sample(block_key, (count, *grid))
    corners = jax.random.randint(corner_key, (count, 2, 1), 0, block_size, jnp.int32)
    rows = (jnp.arange(height) + corners[:, 0]) // block_size
    columns = (jnp.arange(width) + corners[:, 1]) // block_size
    return blocks[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def smooth_noise(key: jax.Array, shape: tuple[int, ...], scale: float) -> jax.Array:
    """Draws noise that changes smoothly; every pixel by itself is standard normal.

    Normal noise on a grid, which lies anew at each draw, times Gaussians of distance whose squares
    add up to one at each pixel. As the scale grows all pixels share one draw, and the masks are the
    level sets of the map.

    Differs from the published code, which draws every pixel by itself.

    Args:
        key: random key.
        shape: `(S, H, W)`.
        scale: spacing of the grid, in pixels.

    Returns:
        float32 `[S, H, W]`.
    """
    grid_key, offset_key = jax.random.split(key)
    count, *size = shape
    # Finer than that, pixels share nothing, and the grid grows for nothing.
    scale = max(scale, _FINEST)
    # As far beyond the ends as a Gaussian reaches.
    grid = [math.ceil(length / scale) + 2 * _REACH for length in size]
    noise = jax.random.normal(grid_key, (count, *grid), jnp.float32)
    offsets = _uniform(offset_key, (count, 2))

    def weigh(offset: jax.Array, length: int, nodes: int) -> jax.Array:
        pixels, places = (jnp.arange(n, dtype=jnp.float32) for n in (length, nodes))
        distance = (pixels + 0.5)[:, None] / scale - (places - _REACH + 0.5 + offset)
        weights = jnp.exp(-0.5 * jnp.square(distance / _GAUSSIAN))
        return weights / jnp.linalg.norm(weights, axis=1, keepdims=True)

    rows, columns = (
        jax.vmap(functools.partial(weigh, length=length, nodes=nodes))(offsets[:, axis])
        for axis, (length, nodes) in enumerate(zip(size, grid, strict=True))
    )
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum("syh,shw,sxw->syx", rows, noise, columns, precision=precision)


def smooth_cells(cells: jax.Array, width: float) -> jax.Array:
    """Averages each cell with its neighbours, weighted by a Gaussian.

    Args:
        cells: float32 `[h, w]`.
        width: standard deviation, in cells; 0 changes nothing.

    Returns:
        float32 `[h, w]`; weights add up to one, also at the border.
    """
    if not width:
        return cells
    rows, columns = (_gaussians(length, width) for length in cells.shape)
    return _enlarge(rows, cells, columns)


def _gaussians(length: int, width: float) -> np.ndarray:
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    weights = np.exp(-0.5 * np.square(distance / width))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def average_blocks(length: int, block_size: int) -> np.ndarray:
    """Weights of the mean over the block that holds a pixel, averaged over all cuts of an axis.

    Args:
        length: pixels of the axis.
        block_size: pixels of a block; those at the ends are cut off as in `block_noise`.

    Returns:
        float32 `[length, length]`; rows add up to one.
    """
    blocks = (np.arange(length) + np.arange(block_size)[:, None]) // block_size
    together = (blocks[:, :, None] == blocks[:, None, :]).astype(np.float32)
    return np.asarray((together / together.sum(axis=2, keepdims=True)).mean(axis=0))


def rank_pixels(importance: jax.Array) -> jax.Array:
    """Returns int32 `[H, W]`: 0 for the most important pixel; equal ones go row by row."""
    order = jnp.argsort(-importance.ravel(), stable=True)
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size, dtype=jnp.int32))
    return rank.reshape(importance.shape)


def interpolation(out: int, size: int) -> np.ndarray:
    """Bilinear weights float32 `[out, size]` between aligned corners; rows add up to one."""
    position = np.linspace(0.0, size - 1.0, out) if out > 1 else np.zeros(1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(size))).astype(np.float32)


def _enlarge(rows: np.ndarray, cells: jax.Array, columns: np.ndarray) -> jax.Array:
    # Full precision, because TPUs round matmul operands to bfloat16 by default.
    return jnp.einsum("yh,hw,xw->yx", rows, cells, columns, precision=jax.lax.Precision.HIGHEST)
