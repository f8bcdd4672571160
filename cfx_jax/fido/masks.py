"""The mask law: how masks are drawn from the learnt cells, and how the cells are displayed.

One number is learnt per cell, `cells [h, w]`: the logit of KEEPING it, or, under a deterministic
law, the mask itself. Masks are `[S, H, W, 1]`, 1 = KEEP the pixel, 0 = in-fill it.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr

from cfx_jax.fido.noise import average_blocks, block_noise, smooth_noise
from cfx_jax.fido.resampling import interpolation, resample, upsample

# Added to a probability before the logarithm, so that the logarithm and its derivative, summed over
# the pixels of a cell, stay finite in float32. Logits saturate at log(1e30) = 69.
_MIN_PROB = 1e-30

# About the distance from 1 at which float32 probabilities end; keeps logits finite in float16.
_LOGIT_EPSILON = 1e-7

# Logit of a cell that is kept in all masks, beyond any noise.
_SURE_LOGIT = 100.0

# Masks are float32 regardless of JAX_ENABLE_X64.
_logistic = functools.partial(jax.random.logistic, dtype=jnp.float32)
_uniform = functools.partial(jax.random.uniform, dtype=jnp.float32)


@jax.custom_jvp
def _sigmoid(logits: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(logits)


# The derivative is not written as p (1 - p), which is zero in float32 for logits above 17.
_sigmoid.defjvps(lambda tangent, p, logits: tangent * p * jax.nn.sigmoid(-logits))


class Relaxation(enum.Enum):
    """Way in which masks are drawn from the keep probability p of a pixel.

    CONCRETE: `sigmoid((logit p + logistic noise) / temperature)`, as published.
    DETERMINISTIC: the mask is p itself, without noise, as in BBMP.
    """

    CONCRETE = "concrete"
    DETERMINISTIC = "deterministic"


class KeepMap(NamedTuple):
    """The mask distribution at the pixels of the image, all float32 `[H, W]`.

    Attributes:
        keep: probability of keeping the pixel.
        drop: probability of dropping it, computed separately: `1 - keep` loses all digits near 1.
        logit: `log(keep) - log(drop)`.
    """

    keep: jax.Array
    drop: jax.Array
    logit: jax.Array


@dataclasses.dataclass(frozen=True)
class MaskLaw:
    """How masks are drawn from the learnt cells, for learning, evaluation and display.

    Attributes:
        relaxation: way in which a mask follows from the keep probability of a pixel.
        temperature: temperature of the concrete distribution while a mask is learnt.
        block_size: side of the squares whose pixels share one draw of the noise, in pixels.
        smooth_scale: distance over which smooth noise changes, as a share of the shorter side of
            the image; 0 = no smooth noise.
        sharpness: factor by which the learnt logits were multiplied in the threshold search, see
            `upsample_keep`; 1 = no search.

    Example:
        >>> law = MaskLaw(Relaxation.CONCRETE)
        >>> pixels = law.keep_map(law.init_cells(0.2, (4, 4)), (8, 8))
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
    def is_random(self) -> bool:
        """Whether masks are drawn with noise; without noise, the cells are the mask itself."""
        return self.relaxation is Relaxation.CONCRETE

    def init_cells(self, keep_prob: float, shape: tuple[int, int]) -> jax.Array:
        """Returns cells `[h, w]` that are all kept with probability `keep_prob`."""
        value = jax.scipy.special.logit(keep_prob) if self.is_random else keep_prob
        return jnp.full(shape, value, jnp.float32)

    def sure_cells(self) -> tuple[float, float]:
        """Returns the values of a cell that is dropped in all masks, and of one that is kept."""
        if not self.is_random:
            return 0.0, 1.0
        # Where sharpened logits are displayed, they are divided by the sharpness.
        return -_SURE_LOGIT * self.sharpness, _SURE_LOGIT * self.sharpness

    def clip(self, cells: jax.Array) -> jax.Array:
        """Clips cells to their valid range, after a step of the optimiser."""
        return cells if self.is_random else jnp.clip(cells, 0.0, 1.0)

    def keep_prob(self, cells: jax.Array) -> jax.Array:
        """Returns the probability of keeping each cell."""
        return _sigmoid(cells) if self.is_random else cells

    def mask_logits(self, cells: jax.Array) -> jax.Array:
        """Returns the logit of keeping each cell, always finite."""
        if self.is_random:
            return cells
        return jax.scipy.special.logit(jnp.clip(cells, _LOGIT_EPSILON, 1.0 - _LOGIT_EPSILON))

    def cells(self, mask_logits: jax.Array) -> jax.Array:
        """Returns the cells with these logits, the inverse of `mask_logits`."""
        return mask_logits if self.is_random else jax.nn.sigmoid(mask_logits)

    def keep_map(self, cells: jax.Array, size: tuple[int, int]) -> KeepMap:
        """Upsamples the keep PROBABILITY to the pixels and returns it with its logit.

        With the weights U of the upsampling and the logits l of the cells,
        `logit(U sigmoid(l)) = log(U sigmoid(l)) - log(U sigmoid(-l))`, because the weights add up
        to one for each pixel. No probability is subtracted from one, so nothing overflows near 0
        or 1.

        With smooth noise, the logit is upsampled instead, which differs from the published code:
        the larger the logits, the sharper is the edge of a region, which would otherwise be as wide
        as a cell.

        Args:
            cells: float32 `[h, w]`.
            size: image size `(H, W)`.

        Returns:
            A `KeepMap`.
        """
        if self.smooth_scale:
            logit = upsample(cells, size)
            return KeepMap(jax.nn.sigmoid(logit), jax.nn.sigmoid(-logit), logit)
        drop_prob = jax.nn.sigmoid(-cells) if self.is_random else 1.0 - cells
        keep, drop = upsample(self.keep_prob(cells), size), upsample(drop_prob, size)
        # The derivative of drop is taken from keep, with the opposite sign, so that one map of
        # derivatives is propagated back to the cells, not two; the value of drop does not change.
        drop = jax.lax.stop_gradient(drop) + (jax.lax.stop_gradient(keep) - keep)
        return KeepMap(keep, drop, jnp.log(keep + _MIN_PROB) - jnp.log(drop + _MIN_PROB))

    def draw(
        self, key: jax.Array, pixels: KeepMap, num_samples: int, *, antithetic: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Draws the masks of one step.

        CONCRETE: `z = sigmoid((logit + e) / T)` with standard logistic noise e, which neighbouring
        pixels share in blocks (`block_noise`) or smoothly (`smooth_noise`);
        `round(z)` is, pixel by pixel, an exact Bernoulli(keep) sample at any temperature.
        DETERMINISTIC: z = keep, and every pixel with keep below 1 belongs to the hole.

        Args:
            key: random key.
            pixels: the mask distribution at the pixels.
            num_samples: number of masks S.
            antithetic: whether the second half of the masks is drawn with the negative of the noise
                of the first half; each mask keeps its distribution.

        Returns:
            `(masks, holes)`, float32 `[S, H, W, 1]`: blend weights, and the binary masks for the
            generator.
        """
        shape = (num_samples, *pixels.keep.shape)
        if not self.is_random:
            masks = jnp.broadcast_to(pixels.keep, shape)
            # Not `== 1`: the interpolation weights of a pixel add up to one only within rounding.
            return masks[..., None], (masks > 1.0 - 1e-6).astype(jnp.float32)[..., None]
        if antithetic:
            shape = (-(-num_samples // 2), *shape[1:])
        if self.smooth_scale:
            normal = smooth_noise(key, shape, self.smooth_scale * min(pixels.keep.shape))
            noise = log_ndtr(normal) - log_ndtr(-normal)
        else:
            noise = block_noise(_logistic, key, shape, self.block_size)
        if antithetic:
            noise = jnp.concatenate([noise, -noise])[:num_samples]
        # Stack copies of the map, one per mask, instead of broadcasting it. The derivative of the
        # stack is a sum of slices; that of a broadcast map is a reduction over a few numbers that
        # lie far apart in memory, which takes 4 % of a step of EfficientNet-Lite0 on a CPU.
        perturbed = (jnp.stack([pixels.logit] * num_samples) + noise)[..., None]
        holes = (perturbed > 0).astype(jnp.float32)
        return jax.nn.sigmoid(perturbed / self.temperature), holes

    def draw_hard(self, key: jax.Array, pixels: KeepMap) -> jax.Array:
        """Draws one hard mask `[1, H, W, 1]`, which keeps a pixel with probability `keep`."""
        shape = (1, *pixels.keep.shape)
        if self.smooth_scale:
            uniform = ndtr(smooth_noise(key, shape, self.smooth_scale * min(pixels.keep.shape)))
        else:
            uniform = block_noise(_uniform, key, shape, self.block_size)
        return (uniform < pixels.keep).astype(jnp.float32)[..., None]

    def upsample_keep(
        self,
        cells: Any,
        size: tuple[int, int],
        sigmoid: Callable[[Any], Any] = jax.nn.sigmoid,
        enlarge: Callable[[np.ndarray, Any, np.ndarray], Any] | None = None,
    ) -> Any:
        """Upsamples cells to the degree to which each pixel is kept, for display and metrics.

        As in the published code, the LOGIT is upsampled here, not the probability (the published
        code then subtracts 1/2). A mask learnt in blocks distinguishes blocks, not the pixels
        within them, so a pixel gets the mean over all blocks of `block_noise` that can contain it.
        Sharpened logits are divided by `sharpness` again: the region above 1/2 is the same, and the
        map keeps its gradations inside and outside of the region.

        Args:
            cells: JAX or NumPy array, float32 `[h, w]`.
            size: image size `(H, W)`.
            sigmoid: logistic function for the type of the array `cells`.
            enlarge: upsampling function `(rows [H, h], cells [h, w], columns [W, w]) -> [H, W]` for
                the same array type; None takes the function for JAX arrays.

        Returns:
            float32 `[H, W]` in [0, 1].
        """
        enlarge = enlarge or resample
        rows, columns = (interpolation(n, m) for n, m in zip(size, cells.shape, strict=True))
        pixels = enlarge(rows, cells, columns) / self.sharpness
        keep = sigmoid(pixels) if self.is_random else pixels.clip(0.0, 1.0)
        if self.block_size > 1:
            rows, columns = (average_blocks(length, self.block_size) for length in size)
            # The weights add up to one only within rounding.
            keep = enlarge(rows, keep, columns).clip(0.0, 1.0)
        return keep


def rank_pixels(importance: jax.Array) -> jax.Array:
    """Returns ranks int32 `[H, W]`, 0 for the most important pixel; ties are broken row by row."""
    order = jnp.argsort(-importance.ravel(), stable=True)
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size, dtype=jnp.int32))
    return rank.reshape(importance.shape)
