"""Checks of images, masks and in-fills that a user passes in.

Shapes and types are checked always; values only where they are known, that is outside a trace.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.generators.base import Generator

_MAX_CHANNELS = 4
# Where a network that was trained to stay within [0, 1] may end.
_OVERSHOOT = 0.1
# Along a side of a picture to fill.
_SQUARES = 4


def check_images(images: jax.Array | np.ndarray) -> jax.Array:
    """Checks the type and the rank of a batch of images.

    Returns:
        The images as a float32 JAX array.

    Raises:
        ValueError: they are not a non-empty floating `[N, H, W, C]`.
    """
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images are {images.dtype}; expected float32 in [0, 1]: divide 8-bit images by 255"
        )
    if is_channels_first(images.shape):
        raise ValueError(
            f"images have shape {images.shape}, channels first; expected [N, H, W, C], channels "
            "last: images.transpose(0, 2, 3, 1)"
        )
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"images have shape {images.shape}; expected [N, H, W, C], channels last, none of them "
            "0: give a single image a leading axis with images[None]"
        )
    return images.astype(jnp.float32)


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Tells whether a shape looks like `[N, C, H, W]`: one to four channels, there and not last."""
    return len(shape) == 4 and 1 <= shape[1] <= _MAX_CHANNELS < min(shape[2:])


def check_pixels(images: jax.Array) -> None:
    """Checks the range of finite pixels; silent inside a trace.

    Raises:
        ValueError: it is not within [0, 1].
    """
    if isinstance(images, jax.core.Tracer):
        return
    finite = jnp.where(jnp.isfinite(images), images, jnp.nan)
    low, high = float(jnp.nanmin(finite)), float(jnp.nanmax(finite))
    if low < 0.0 or high > 1.0:
        # Normalised images pass 2 as well (2.64 with the usual constants), but also 0.
        is_8_bit = low >= 0.0 and high > 2.0
        hint = "divide 8-bit images by 255" if is_8_bit else "undo their normalisation"
        raise ValueError(
            f"images range over [{low:.4g}, {high:.4g}]; expected [0, 1]: {hint}, the "
            "classifier normalises by itself"
        )


def check_mask(mask: jax.Array | np.ndarray, images: jax.Array) -> jax.Array:
    """Checks the shape of the masks of images, and their range outside a trace.

    Returns:
        The mask as a float32 JAX array.

    Raises:
        ValueError: it is not `[N, H, W, 1]` within [0, 1].
    """
    mask = jnp.asarray(mask, jnp.float32)
    expected = (*images.shape[:3], 1)
    if mask.shape != expected:
        raise ValueError(
            f"mask has shape {mask.shape}; expected {expected} for images of shape {images.shape}"
        )
    if not isinstance(mask, jax.core.Tracer):
        low, high = float(mask.min()), float(mask.max())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(
                f"mask ranges over [{low:.4g}, {high:.4g}]; expected [0, 1], 1 = keep, 0 = fill"
            )
    return mask


def check_infills(generator: Generator, images: jax.Array) -> None:
    """Checks the shape and the type of a generator's in-fills without running it.

    Raises:
        ValueError: the shape is not that of the images, or they are no real numbers.
    """
    mask = jax.ShapeDtypeStruct((*images.shape[:3], 1), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    infill = jax.eval_shape(generator.apply, generator.params, images, mask, key)
    if not isinstance(infill, jax.ShapeDtypeStruct):
        raise ValueError(
            f"generator {generator.name!r} returns a {type(infill).__name__}; expected one array "
            f"of the shape of the images, {images.shape}"
        )
    if infill.shape != images.shape:
        raise ValueError(
            f"generator {generator.name!r} returns shape {infill.shape} for images of shape "
            f"{images.shape}; expected the shape of the images"
        )
    if not any(jnp.issubdtype(infill.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise ValueError(f"generator {generator.name!r} returns {infill.dtype}; expected float32")


def check_fills(generator: Generator, shape: tuple[int, ...]) -> None:
    """Looks at what a generator of the user's own makes of two pictures; silent inside a trace.

    All of the in-fill counts: where a mask is half transparent, as while it is learnt, kept pixels
    are blended, too.

    Args:
        generator: is run once, unless it is one of this package.
        shape: `(H, W, C)` of the images.

    Raises:
        ValueError: it fills with NaN, or with values beyond [0, 1] by more than a tenth.
    """
    if _is_ours(generator.apply):
        return
    rows, columns = (np.arange(side) for side in shape[:2])
    # From dark to bright along either diagonal; every other square is a hole.
    bright = (rows[:, None] + columns) / max(rows[-1] + columns[-1], 1)
    pictures = np.stack([bright, bright[::-1]])[..., None] * np.ones(shape[2])
    squares = rows[:, None] * _SQUARES // shape[0] + columns * _SQUARES // shape[1]
    masks = np.broadcast_to((squares % 2)[None, ..., None], (*pictures.shape[:3], 1))
    infills = _fill(generator, jnp.float32(pictures), jnp.float32(masks))
    if isinstance(infills, jax.core.Tracer):
        return
    if not bool(jnp.isfinite(infills).all()):
        raise ValueError(
            f"generator {generator.name!r} returns values that are not finite; expected [0, 1] for "
            "every pixel, also for those that the mask keeps: return the image there"
        )
    check_range(generator, infills)


@jax.jit
def _fill(generator: Generator, images: jax.Array, mask: jax.Array) -> jax.Array:
    return generator.apply(generator.params, images, mask, jax.random.key(0))


def _is_ours(apply: Any) -> bool:
    """Tells whether a function that fills is of this package, whatever is wrapped around it."""
    inner = [getattr(apply, name) for name in ("func", "apply") if hasattr(apply, name)]
    inner += getattr(apply, "applies", ())
    if inner:
        return all(map(_is_ours, inner))
    return str(getattr(apply, "__module__", "")).startswith("cfx_jax.generators.")


def check_range(generator: Generator, infilled: jax.Array) -> None:
    """Checks the range of images with in-fills, so far as they are finite; silent inside a trace.

    Args:
        generator: whose in-fills they hold.
        infilled: float32 `[N, H, W, C]`; what is not in-filled is within [0, 1].

    Raises:
        ValueError: it is beyond [0, 1] by more than a tenth.
    """
    if isinstance(infilled, jax.core.Tracer):
        return
    finite = jnp.where(jnp.isfinite(infilled), infilled, 0.5)
    low, high = float(finite.min()), float(finite.max())
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        hint = "clip them"
        if low >= 0 and high > 2:
            hint = "divide 8-bit values by 255"
        elif -1 - _OVERSHOOT <= low < 0 and high <= 1 + _OVERSHOOT:
            hint = "of a network that fills with values in [-1, 1] return (x + 1) / 2"
        raise ValueError(
            f"generator {generator.name!r} fills with values over [{low:.4g}, {high:.4g}]; "
            f"expected [0, 1], as those of the images: {hint}"
        )
