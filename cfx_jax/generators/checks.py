"""Checks of user-provided random keys, images, masks and in-fills.

Shapes and types are always checked; values are checked only outside of a trace.
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
_KEY_IMPL = "threefry2x32"
# JAX reads 32 bits of a seed: a larger seed would draw the numbers of a smaller seed.
_MAX_SEED = 2**32 - 1


def check_key(key: Any) -> jax.Array:
    """Checks a random key, and returns it as a key of the implementation `threefry2x32`.

    Other implementations, such as `rbg`, draw numbers that depend on the batch under `vmap`. Their
    keys are converted: `jax.random.key(0)` gives the same key for any default implementation.

    Args:
        key: a key of `jax.random.key`, a legacy key of `jax.random.PRNGKey`, or a seed, a whole
            number from 0 to 4294967295.

    Returns:
        The key, a scalar.

    Raises:
        ValueError: the key is anything else, for example an array of several keys.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool) and 0 <= key <= _MAX_SEED:
        # `jax.random.key` would add the setting `jax_random_seed_offset`.
        data = np.array([0, key], np.uint32)
        return jax.random.wrap_key_data(jnp.asarray(data), impl=_KEY_IMPL)
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
        if str(jax.random.key_impl(key)) == _KEY_IMPL:
            return key
        key = jax.random.key_data(key)
    elif shape not in ((2,), (4,)) or dtype != np.uint32:
        what = repr(key) if shape is None else f"an array {shape} of {dtype}"
        raise ValueError(
            f"key is {what:.80}; expected one key, such as jax.random.key(0), or a seed from 0 to "
            f"{_MAX_SEED}"
        )
    # A key of `rbg` consists of two keys of threefry, which `split` and `fold_in` derive alike.
    return jax.random.wrap_key_data(jnp.asarray(key)[:2], impl=_KEY_IMPL)


def to_array(name: str, values: Any) -> jax.Array | np.ndarray:
    """Returns an array of numbers that JAX accepts.

    Args:
        name: name of the argument, for the message.
        values: a JAX array, which is returned unchanged, or anything that NumPy converts.

    Returns:
        A JAX array, or a NumPy array in the byte order of this machine.

    Raises:
        ValueError: NumPy cannot convert the values, the result does not consist of numbers, or
            values of a masked array are masked.
    """
    if isinstance(values, jax.Array):
        return values
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name}: some values of the masked array are masked, and JAX has no masks; fill them "
            "first, for example by `.filled(0)`"
        )
    try:
        array = np.asarray(values)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        is_number = array.dtype == bool or jnp.issubdtype(array.dtype, np.number)
        reason = "" if is_number else f"type {array.dtype}"
    except Exception as error:  # Tensors of other libraries can raise any exception.
        reason = one_line(error)
    if reason:
        raise ValueError(
            f"{name}: a {type(values).__name__} is no array of numbers ({reason}); expected a "
            "NumPy or JAX array"
        )
    return array


def one_line(error: BaseException) -> str:
    """Returns the type and message of an exception of user-defined code, in one line."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300]}"


def check_images(images: jax.Array | np.ndarray) -> jax.Array:
    """Checks the type and the rank of a batch of images.

    Returns:
        The images as a float32 JAX array.

    Raises:
        ValueError: the images are not floating `[N, H, W, C]`, or an axis has length 0.
    """
    images = to_array("images", images)
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
    return jnp.asarray(images, jnp.float32)


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
    mask = jnp.asarray(to_array("mask", mask), jnp.float32)
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
        ValueError: the shape differs from that of the images, or the type is not real.
    """
    mask = jax.ShapeDtypeStruct((*images.shape[:3], 1), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        infill = jax.eval_shape(generator.apply, generator.params, images, mask, key)
    except Exception as error:  # A user-defined model can raise any exception.
        if images.shape[-1] == 3:
            raise
        raise ValueError(
            f"generator {generator.name!r} raises {one_line(error)}; for images of "
            f"{images.shape[-1]} channels, shape {images.shape}; expected 3 channels, RGB, or a "
            "generator that was trained for such images"
        ) from error
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

    Every pixel of the in-fill is checked, because under the soft masks of learning, kept pixels are
    blended with the in-fill, too.

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
    """Returns whether an `apply` function, or every function that it wraps, is of this package."""
    inner = [getattr(apply, name) for name in ("func", "apply") if hasattr(apply, name)]
    inner += getattr(apply, "applies", ())
    if inner:
        return all(map(_is_from_package, inner))
    return str(getattr(apply, "__module__", "")).startswith("cfx_jax.generators.")


def check_range(generator: Generator, infilled: jax.Array) -> None:
    """Checks the range of the finite pixels of in-filled images; traced values pass unchecked.

    Args:
        generator: generator of the in-fills.
        infilled: in-filled images, float32 `[N, H, W, C]`; kept pixels are within [0, 1].

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
