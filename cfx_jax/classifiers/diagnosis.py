"""What is wrong with a classifier: its output, its noise, its gradient.

Everything is seen from four calls of one compiled program on one or two images, an image of noise
and a black one.

Log-probabilities are no fault: the objective is the log-odds of a class, which stay the same when a
constant is added to all logits of an image, and a logarithm of a softmax is the logits less such a
constant. Probabilities are one: taken for logits they bound the log-odds to a range of 2, which
little of a mask is worth.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers.logits import log_odds

Apply = Callable[[Any, jax.Array], Any]
_MAX_IMAGES = 2
# Of an axis that can be one of colours.
_MAX_CHANNELS = 4
# Two computations of the same logits differ by less, whatever the device: as a share of the range.
_SAME = 0.01
# On photographs the logits of EfficientNet-Lite0 differ by about 10 from those of a black image,
# and by 0.06 once the photographs are divided by 255. In nats.
_HARDLY, _CLEARLY = 0.25, 2.5
_NO_TRAINING = (
    "switch off dropout and the batch statistics of normalisation (train=False, "
    "deterministic=True, training=False, model.eval())"
)


class Finding(NamedTuple):
    """One thing that is wrong with a classifier.

    Attributes:
        problem: what was seen, and what was expected.
        advice: what to do about it.
    """

    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.advice}"


class _Outputs(NamedTuple):
    """What the program gave, numpy.

    Attributes:
        logits: float32 `[N, K]` of images, noise and black, in this order.
        again: float32 `[N, K]` of the same batch.
        shuffled: float32 `[N, K]`, the images with another image for black, in other places.
        scaled: float32 `[N, K]` of the batch in [0, 255].
        gradient: float32 `[n, H, W, C]`, of the log-odds of the predicted class of the n images, or
            None.
    """

    logits: np.ndarray
    again: np.ndarray
    shuffled: np.ndarray
    scaled: np.ndarray
    gradient: np.ndarray | None


def diagnose(
    apply: Apply, params: Any, images: jax.Array | np.ndarray, class_names: tuple[str, ...] = ()
) -> tuple[Finding, ...]:
    """Finds out what is wrong with a classifier.

    Args:
        apply: `apply(params, images) -> logits`.
        params: its parameters.
        images: real images, float `[N, H, W, C]` in [0, 1]; the first two are used.
        class_names: one for each class, or empty.

    Returns:
        What was found; empty if all is well.

    Raises:
        ValueError: the images are not a non-empty `[N, H, W, C]`.
    """
    pixels, wrong_range = _readable_images(images)
    found = list(wrong_range)
    try:
        output = jax.eval_shape(apply, params, pixels)
    except Exception as error:  # Whatever a foreign model raises.
        return (*found, _raised(error, pixels))
    found += _output_findings(output, len(pixels), class_names)
    if not _is_logits(output, len(pixels)):
        return tuple(found)
    try:
        outputs, not_differentiable = _run(apply, params, pixels)
    except Exception as error:
        return (*found, _raised(error, pixels))
    found += not_differentiable
    finite = np.isfinite(outputs.logits).all(axis=1)
    if not finite.all():
        names = [*(f"image {row}" for row in range(len(pixels))), "noise", "a black image"]
        rows = ", ".join(name for name, sound in zip(names, finite, strict=True) if not sound)
        problem = f"logits are not finite for {rows}; expected finite numbers"
        advice = "look for NaN in the weights, and for a logarithm or a division of zero"
        return (*found, Finding(problem, advice))
    # The other outputs may still be infinite, and then are not those expected.
    with np.errstate(all="ignore"):
        return (*found, *_value_findings(outputs), *_gradient_findings(outputs))


def _readable_images(images: Any) -> tuple[jax.Array, list[Finding]]:
    """Returns float32 images `[N, H, W, C]` in [0, 1], and what is wrong with those given."""
    given = np.asarray(images)
    if given.ndim != 4 or 0 in given.shape or given.dtype.kind not in "fiub":
        raise ValueError(
            f"images have shape {given.shape} and type {given.dtype}; expected float32 [N, H, W, C]"
            " in [0, 1]: give a single image a leading axis with images[None]"
        )
    found = []
    if 1 <= given.shape[1] <= _MAX_CHANNELS < min(given.shape[2:]):
        problem = f"images have shape {list(given.shape)}, channels first; expected [N, H, W, C]"
        found.append(Finding(problem, "put their channels last: images.transpose(0, 2, 3, 1)"))
        given = np.moveaxis(given, 1, -1)
    given, dtype = given[:_MAX_IMAGES].astype(np.float32), given.dtype
    finite = np.isfinite(given)
    pixels = np.where(finite, given, 0.0)
    low, high = float(pixels.min()), float(pixels.max())
    is_8_bit = low >= 0.0 and high > 2.0
    batch = jnp.asarray(np.clip(pixels / (255.0 if is_8_bit else 1.0), 0.0, 1.0))
    if dtype.kind == "f" and finite.all() and low >= 0.0 and high <= 1.0:
        return batch, found
    some = "" if finite.all() else ", some not finite"
    problem = f"images are {dtype} over [{low:.4g}, {high:.4g}]{some}; expected float32 in [0, 1]"
    advice = "undo their normalisation, the classifier normalises by itself"
    if is_8_bit or dtype.kind != "f":
        advice = "divide 8-bit images by 255, the classifier normalises by itself"
    elif not finite.all():
        advice = "leave out images whose pixels are not finite"
    return batch, [*found, Finding(problem, advice)]


def _is_logits(output: Any, num_images: int) -> bool:
    return (
        isinstance(output, jax.ShapeDtypeStruct)
        and len(output.shape) == 2
        and output.shape[0] == num_images
        and output.shape[1] >= 2
        and jnp.issubdtype(output.dtype, jnp.floating)
    )


def _output_findings(
    output: Any, num_images: int, class_names: tuple[str, ...]
) -> Iterator[Finding]:
    expected = f"expected float32 logits [{num_images}, K] with at least two classes K"
    if not isinstance(output, jax.ShapeDtypeStruct):
        yield Finding(
            f"output is a {type(output).__name__}; {expected}",
            "return the logits alone, as one array",
        )
        return
    seen = f"output is {output.dtype} {list(output.shape)} for {num_images} images; {expected}"
    if output.shape == (num_images, 1):
        yield Finding(seen, 'say with logits="sigmoid" that it is one logit of two classes')
    elif not _is_logits(output, num_images):
        yield Finding(seen, "return one row of logits an image, before softmax and argmax")
    elif output.dtype != jnp.float32:
        yield Finding(seen, "return logits.astype(jax.numpy.float32)")
    if class_names and _is_logits(output, num_images) and len(class_names) != output.shape[1]:
        yield Finding(
            f"{len(class_names)} class names for {output.shape[1]} classes",
            "give one name for each class, in the order of the logits",
        )


def _raised(error: Exception, images: jax.Array) -> Finding:
    return Finding(
        f"apply raises {_main_line(error)}, for images {list(images.shape)}; expected logits",
        "jax.jit(classifier.apply)(classifier.params, images) shows the whole error; images are "
        "[N, H, W, C], a channels-first network needs channels_first=True of its adapter",
    )


def _main_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    # An error on the host comes with its traceback, and its message at the end.
    line = lines[-1] if any("Traceback" in line for line in lines) else lines[0]
    return f"{type(error).__name__}: {line.rstrip('.:')}"


def _logits_and_gradient(
    apply: Apply, params: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns logits, and the gradient of the log-odds of the predicted class of each image."""

    def total(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = apply(params, images).astype(jnp.float32)
        return jnp.sum(log_odds(logits, jnp.argmax(logits, axis=1, keepdims=True))), logits

    gradient, logits = jax.grad(total, has_aux=True)(images)
    return logits, gradient


def _logits_alone(apply: Apply, params: Any, images: jax.Array) -> tuple[jax.Array, None]:
    return apply(params, images).astype(jnp.float32), None


def _run(apply: Apply, params: Any, images: jax.Array) -> tuple[_Outputs, list[Finding]]:
    """Calls the classifier four times, with gradients if it has any."""
    noise = jnp.asarray(np.random.default_rng(0).random((1, *images.shape[1:]), np.float32))
    batch = jnp.concatenate([images, noise, jnp.zeros_like(noise)])
    shuffled = jnp.concatenate([batch[-2:-1], batch[-2::-1]])
    found = []
    # Programs of their own: those of a function of this module would keep the model for ever.
    try:
        program = jax.jit(functools.partial(_logits_and_gradient, apply))
        logits, gradient = jax.device_get(program(params, batch))
    except Exception as error:
        program = jax.jit(functools.partial(_logits_alone, apply))
        logits, gradient = jax.device_get(program(params, batch))
        found.append(
            Finding(
                f"the gradient of the logits raises {_main_line(error)}; expected one",
                "compute with differentiable operations of JAX from the images to the logits",
            )
        )
    again, moved, scaled = (
        jax.device_get(program(params, rows)[0]) for rows in (batch, shuffled, 255.0 * batch)
    )
    # Back in the places of `batch`, without the black image.
    moved = moved[:0:-1]
    gradient = None if gradient is None else gradient[: len(images)]
    return _Outputs(logits, again, moved, scaled, gradient), found


def _value_findings(outputs: _Outputs) -> Iterator[Finding]:
    logits = outputs.logits
    if (logits >= 0.0).all() and np.allclose(logits.sum(axis=1), 1.0, atol=1e-3):
        yield Finding(
            "outputs are probabilities, each row non-negative with the sum 1; expected logits",
            "return what goes into the softmax, or its logarithm (jax.nn.log_softmax): the "
            "log-odds are the same",
        )
    elif all(((rows >= 0.0) & (rows <= 1.0)).all() for rows in (logits, outputs.scaled)):
        yield Finding(
            "outputs are all within [0, 1], as those of sigmoids are; expected logits",
            "return what goes into the sigmoid",
        )
    same = _SAME * np.ptp(logits) + 1e-5 * np.abs(logits).max()
    noise = np.abs(outputs.again - logits).max()
    if not noise <= same:
        yield Finding(
            f"logits of the same images differ by {noise:.3g} between two calls; expected the same",
            _NO_TRAINING,
        )
        return
    moved = np.abs(outputs.shuffled - logits[:-1]).max()
    if not moved <= same:
        yield Finding(
            f"logits of an image change by {moved:.3g} with its place and the other images of the "
            "batch; expected those of the image alone",
            _NO_TRAINING,
        )
        return
    yield from _response_findings(outputs)


def _response_findings(outputs: _Outputs) -> Iterator[Finding]:
    """Findings on how the logits follow the image; adding a constant to a row says nothing."""
    logits, scaled = (
        rows - rows.mean(axis=1, keepdims=True) for rows in (outputs.logits, outputs.scaled)
    )
    if np.abs(logits - logits[0]).max() <= 1e-6 * np.abs(logits).max():
        yield Finding(
            f"logits are the same for {len(logits)} different images; expected them to differ",
            "look for an input that is not used, or for weights that are all zero",
        )
        return
    # Noise is left out: networks answer to it even where they take an image for black.
    rows = [*range(len(logits) - 2), -1]
    change, wider = (np.ptp(values[rows], axis=0).max() for values in (logits, scaled))
    if change < _HARDLY and wider > _CLEARLY:
        yield Finding(
            f"logits change by no more than {change:.2g} between images in [0, 1] and a black one, "
            f"but by {wider:.2g} in [0, 255]; expected a network of images in [0, 1]",
            "if it was trained on [0, 255], let its normalization multiply: "
            "Normalization(mean=(0.0,), std=(1 / 255,))",
        )


def _gradient_findings(outputs: _Outputs) -> Iterator[Finding]:
    gradient = outputs.gradient
    if gradient is None:
        return
    if not np.isfinite(gradient).all():
        yield Finding(
            "the gradient of the logits is not finite; expected finite numbers",
            "look for sqrt, log, norm or where with an infinite slope",
        )
        return
    is_dead = ~gradient.any(axis=(1, 2, 3))
    varies = np.ptp(outputs.logits, axis=0).any()
    if varies and is_dead.any():
        whose = "" if is_dead.all() else f" for image {int(np.argmax(is_dead))}"
        yield Finding(
            f"the gradient of the logits is zero everywhere{whose}; expected slopes",
            "look for stop_gradient, rounding, argmax or a saturated softmax between image and "
            "logits",
        )
