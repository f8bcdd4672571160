"""Checks of user-provided images, masks and in-fills.

Shapes and types are always checked; values only outside a trace, where they are known.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.generators.base import Generator

_MAX_CHANNELS = 4
# Distance beyond [0, 1] that the outputs of a network trained on [0, 1] may reach.
_OVERSHOOT = 0.1
# Squares along each side of the checkerboard mask of `check_fills`.
_NUM_SQUARES = 4


def check_images(images: jax.Array | np.ndarray) -> jax.Array:
    """Checks the type and the rank of a batch of images.

    Returns:
        The images as a float32 JAX array.

    Raises:
        ValueError: the images are not floating `[N, H, W, C]`, or an axis has length 0.
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
            "0: add a leading axis to a single image with images[None]"
        )
    return images.astype(jnp.float32)


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether a shape seems to be `[N, C, H, W]`, with one to four channels."""
    return len(shape) == 4 and 1 <= shape[1] <= _MAX_CHANNELS < min(shape[2:])


def check_pixels(images: jax.Array) -> None:
    """Checks the range of finite pixels; traced values pass unchecked.

    Raises:
        ValueError: a pixel is outside of [0, 1].
    """
    if isinstance(images, jax.core.Tracer):
        return
    finite = jnp.where(jnp.isfinite(images), images, jnp.nan)
    low, high = float(jnp.nanmin(finite)), float(jnp.nanmax(finite))
    if low < 0.0 or high > 1.0:
        # Normalised images exceed 2, too (2.64 with the ImageNet constants), but also go below 0.
        is_8_bit = low >= 0.0 and high > 2.0
        hint = "divide 8-bit images by 255" if is_8_bit else "undo their normalisation"
        raise ValueError(
            f"images range over [{low:.4g}, {high:.4g}]; expected [0, 1]: {hint}; further "
            "normalisation is part of the classifier"
        )


def check_mask(mask: jax.Array | np.ndarray, images: jax.Array) -> jax.Array:
    """Checks the shape of the masks of images, and their range outside a trace.

    Returns:
        The mask as a float32 JAX array.

    Raises:
        ValueError: the mask does not have the shape `[N, H, W, 1]`, or is not within [0, 1].
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
        ValueError: the shape is not that of the images, or the type is not real.
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
    """Checks the in-fills of a user-defined generator on two images; does nothing inside a trace.

    Every pixel of the in-fill is checked: under the soft masks of learning, kept pixels are blended
    with the in-fill, too.

    Args:
        generator: the generator; it runs once, unless it belongs to this package.
        shape: image shape `(H, W, C)`.

    Raises:
        ValueError: an in-fill is not finite, or is beyond [0, 1] by more than 0.1.
    """
    if _is_from_package(generator.apply):
        return
    rows, columns = (np.arange(side) for side in shape[:2])
    # Brightness ramps along both diagonals; every other square of a checkerboard is a hole.
    ramp = (rows[:, None] + columns) / max(rows[-1] + columns[-1], 1)
    images = np.stack([ramp, ramp[::-1]])[..., None] * np.ones(shape[2])
    squares = rows[:, None] * _NUM_SQUARES // shape[0] + columns * _NUM_SQUARES // shape[1]
    masks = np.broadcast_to((squares % 2)[None, ..., None], (*images.shape[:3], 1))
    infills = _fill(generator, jnp.float32(images), jnp.float32(masks))
    if isinstance(infills, jax.core.Tracer):
        return
    if not bool(jnp.isfinite(infills).all()):
        raise ValueError(
            f"generator {generator.name!r} returns values that are not finite; expected [0, 1] for "
            "every pixel, also for kept pixels: return the image there"
        )
    check_range(generator, infills)


@jax.jit
def _fill(generator: Generator, images: jax.Array, mask: jax.Array) -> jax.Array:
    return generator.apply(generator.params, images, mask, jax.random.key(0))


def _is_from_package(apply: Any) -> bool:
    """Returns whether an `apply` function, or all those that it wraps, belong to this package."""
    inner = [getattr(apply, name) for name in ("func", "apply") if hasattr(apply, name)]
    inner += getattr(apply, "applies", ())
    if inner:
        return all(map(_is_from_package, inner))
    return str(getattr(apply, "__module__", "")).startswith("cfx_jax.generators.")


def check_range(generator: Generator, infilled: jax.Array) -> None:
    """Checks the range of the finite pixels of in-filled images; traced values pass unchecked.

    Args:
        generator: the generator that made the in-fills.
        infilled: in-filled images, float32 `[N, H, W, C]`; other pixels are within [0, 1].

    Raises:
        ValueError: a pixel is beyond [0, 1] by more than 0.1.
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
            hint = "return (x + 1) / 2 for a network with outputs x in [-1, 1]"
        raise ValueError(
            f"generator {generator.name!r} fills with values over [{low:.4g}, {high:.4g}]; "
            f"expected [0, 1], the range of the images: {hint}"
        )
