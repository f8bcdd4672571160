"""Checks of the arguments of the public functions, made once at their start.

Shapes and types are always checked; values only outside a trace, where they are known.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers import Classifier, class_count
from cfx_jax.fido.objective import DIRECTIONS, price_allowed
from cfx_jax.fido.question import Question, Score
from cfx_jax.fido.resampling import interpolation
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import (
    Generator,
    check_images,
    check_infills,
    check_pixels,
    one_line,
    to_array,
)

# Number of logits that a score is tried with.
_NUM_SCORED = 3


def check_problem(
    classifier: Classifier,
    generator: Generator,
    images: jax.Array | np.ndarray,
    objective: str,
    settings: Settings,
    contrast: jax.Array | int | None = None,
) -> jax.Array:
    """Checks names, shapes and types without running a network.

    Args:
        classifier: the model to explain; its logits must be `[N, K]` with K >= 2, or K >= 1 if its
            logits are `"sigmoid"`.
        generator: the in-fill model; its in-fills must have the shape of the images.
        images: floating `[N, H, W, C]`, N >= 1, at least as large as the mask.
        objective: `"ssr"` or `"sdr"`.
        settings: provides the size of the mask and of its blocks.
        contrast: class to compare the target with; not available with a single logit.

    Returns:
        The images as a float32 JAX array.

    Raises:
        ValueError: an argument is invalid; the message names what was expected and what to do.
    """
    if objective not in DIRECTIONS:
        hint = "; explain_both gives both" if objective == "both" else ""
        known = ", ".join(DIRECTIONS)
        raise ValueError(f"unknown objective {objective!r}; known are {known}{hint}")
    images = check_images(images)
    height, width = images.shape[1:3]
    if settings.mask_size > min(height, width):
        raise ValueError(
            f"the mask has {settings.mask_size} x {settings.mask_size} cells, more than the image "
            f"has pixels ({height} x {width}); pass mask_size={min(height, width)} or less"
        )
    if settings.block_size > min(height, width):
        raise ValueError(
            f"blocks are {settings.block_size} pixels wide, more than the image ({height} x "
            f"{width}); pass block_size={min(height, width)} or less"
        )
    _check_logits(classifier, images, contrast)
    check_infills(generator, images)
    return images


def check_values(classifier: Classifier, images: jax.Array, question: Question) -> Question:
    """Checks the range of the pixels and of the classes; traced values pass unchecked.

    Pixels that are not finite pass: they are the failure of one image, which gets a status.

    Args:
        classifier: provides the number of classes.
        images: float32 `[N, H, W, C]`, already checked by `check_problem`.
        question: question about the batch; its targets are int `[N]` or None.

    Returns:
        The question with its classes as int32 arrays.

    Raises:
        ValueError: a value is out of range; the message names what was expected and what to do.
    """
    check_pixels(images)
    num_classes = count_classes(classifier, images)
    if question.score is not None:
        _check_score(question.score, num_classes)
    targets, contrast = question.target, question.contrast
    if targets is not None:
        targets = check_classes("targets", targets, (len(images),), num_classes)
    if contrast is not None:
        contrast = check_classes("contrast", contrast, (), num_classes)
    return question.replace(target=targets, contrast=contrast)


def _check_score(score: Score, num_classes: int) -> None:
    """Raises a ValueError unless a score maps logits `[S, K]` and a target to floats `[S]`."""
    expected = "expected score(logits [..., K], target) -> floats [...], written with jax.numpy"
    logits = jax.ShapeDtypeStruct((_NUM_SCORED, num_classes), jnp.float32)
    try:
        found = jax.eval_shape(score, logits, jax.ShapeDtypeStruct((), jnp.int32))
    except Exception as error:  # User-defined code can raise any exception.
        raise ValueError(f"score fails with {one_line(error)}; {expected}") from error
    what = type(found).__name__
    if isinstance(found, jax.ShapeDtypeStruct):
        if found.shape == (_NUM_SCORED,) and jnp.issubdtype(found.dtype, jnp.floating):
            return
        what = f"{found.dtype} {list(found.shape)}"
    raise ValueError(f"score returns {what} for logits [{_NUM_SCORED}, {num_classes}]; {expected}")


def check_batch_size(batch_size: Any) -> None:
    """Raises a ValueError unless a batch size is None or a whole number of at least 1."""
    if batch_size is None:
        return
    is_whole = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
    if not is_whole or batch_size < 1:
        raise ValueError(
            f"batch_size is {batch_size!r}; expected a whole number of at least 1, the images to "
            "optimise together, or None"
        )


def check_classes(name: str, classes: Any, shape: tuple[int, ...], num_classes: int) -> jax.Array:
    """Checks class numbers; the one rule for targets and contrasts.

    Args:
        name: name of the argument, for the message.
        classes: whole numbers of any integer type of Python, NumPy or JAX; not bool, not text.
        shape: expected shape; () for one class.
        num_classes: number of classes K; traced values are not compared with it.

    Returns:
        The numbers, int32.

    Raises:
        ValueError: the type or the shape is wrong, or a number is outside of [0, K).
    """
    try:
        array = classes if isinstance(classes, jax.Array) else to_array(name, classes)
    except ValueError:  # Lists of lists of different lengths, tensors on other devices, masks.
        array = np.asarray(None)
    if array.shape != shape or not jnp.issubdtype(array.dtype, jnp.integer):
        is_array = hasattr(classes, "shape")
        verb = "have" if shape else "has"
        what = f"{verb} shape {array.shape} and type {array.dtype}"
        each = f" for each of the {shape[0]} images, or None" if shape else ""
        raise ValueError(
            f"{name} {what if is_array else f'is {classes!r:.80}'}; expected one whole number{each}"
        )
    if isinstance(array, jax.core.Tracer):
        return array.astype(jnp.int32)
    wrong = [int(number) for number in np.ravel(array) if not 0 <= number < num_classes]
    if wrong:
        what = f"{wrong} are out of range" if shape else f"is class {wrong[0]}"
        raise ValueError(f"{name} {what}; the classifier has classes 0 to {num_classes - 1}")
    return jnp.asarray(np.asarray(array).astype(np.int32))


def check_allowed(allowed: jax.Array | np.ndarray, images: jax.Array, mask_size: int) -> jax.Array:
    """Checks the pixels that a region may contain, and returns them as relative prices.

    Args:
        allowed: bool `[H, W]` for all images, or `[N, H, W]`; 0 and 1 are accepted, too.
        images: float32 `[N, H, W, C]`, already checked by `check_problem`.
        mask_size: number of cells along each side of the mask.

    Returns:
        float32 `[N, H, W]`, 1 where the region may be, infinite elsewhere, see `Problem.prices`.

    Raises:
        ValueError: the shape or a value is wrong, or no cell of the mask of an image is allowed.
    """
    shape, allowed = images.shape[:3], to_array("allowed", allowed)
    if allowed.shape not in (shape, shape[1:]):
        raise ValueError(
            f"allowed has shape {allowed.shape}; expected {shape[1:]}, one map for all "
            f"images, or {shape}, one for each"
        )
    if not isinstance(allowed, jax.core.Tracer):
        values = np.asarray(allowed)
        if not np.isin(values, (0, 1)).all():
            raise ValueError(
                "allowed contains other values than True and False; expected bool, for example "
                "`mask > 0`"
            )
        empty = find_empty(np.broadcast_to(values != 0, shape), mask_size)
        if empty.size:
            raise ValueError(
                f"no cell of the mask lies in the allowed pixels of image {empty[0]}; a cell is "
                f"{shape[1] / mask_size:.0f} pixels wide: allow more pixels, or use a larger "
                "mask_size"
            )
    return jnp.broadcast_to(price_allowed(jnp.asarray(allowed, bool)), shape)


def find_empty(allowed: np.ndarray, mask_size: int) -> np.ndarray:
    """Returns the images in whose allowed pixels no whole cell of the mask lies, int `[m]`.

    Args:
        allowed: bool `[N, H, W]`.
        mask_size: number of cells along each side of the mask.
    """
    rows, columns = (interpolation(length, mask_size) for length in allowed.shape[1:])
    touched = rows.T @ (~allowed).astype(np.float32) @ columns
    return np.flatnonzero((touched > 0).all((1, 2)))


def count_classes(classifier: Classifier, images: jax.Array | np.ndarray) -> int:
    """Returns the number of classes without running the classifier; one logit means two classes."""
    return class_count(logits_shape(classifier, images)[-1])


def logits_shape(classifier: Classifier, images: jax.Array | np.ndarray) -> tuple[int, ...]:
    """Returns the shape of the classifier's output without running it."""
    try:
        logits = jax.eval_shape(classifier.apply, classifier.params, images)
    except Exception as error:  # A user-defined model can raise any exception.
        if images.shape[-1] == classifier.channels:
            raise
        found, expected = images.shape[-1], classifier.channels
        raise ValueError(
            f"classifier {classifier.name!r} raises {one_line(error)}; for images of {found} "
            f"channels, shape {images.shape}; expected {expected} channels: "
            f"{_channel_advice(found, expected)}"
        ) from error
    if not isinstance(logits, jax.ShapeDtypeStruct):
        raise ValueError(
            f"classifier {classifier.name!r} returns a {type(logits).__name__}; expected one array "
            "of logits [N, num_classes]"
        )
    return tuple(logits.shape)


def _channel_advice(found: int, expected: int) -> str:
    if found == 1 and expected == 3:
        return "repeat grey images with np.repeat(images, 3, axis=-1)"
    if found == 4 and expected == 3:
        return "drop the transparency of RGBA images with images[..., :3]"
    return "or classifier.channels is wrong"


def _check_logits(
    classifier: Classifier, images: jax.Array, contrast: jax.Array | int | None
) -> None:
    shape = logits_shape(classifier, images)
    is_binary = shape[1:] == (1,)
    allows_one = classifier.logits == "sigmoid" and contrast is None
    if len(shape) == 2 and shape[0] == len(images) and shape[1] >= (1 if allows_one else 2):
        return
    hint = (
        '; the one logit of a binary classifier needs logits="sigmoid" and no contrast'
        if is_binary or len(shape) == 1
        else ""
    )
    raise ValueError(
        f"classifier {classifier.name!r} returns shape {shape} for {len(images)} images; "
        f"expected logits [N, num_classes] with at least two classes{hint}"
    )
