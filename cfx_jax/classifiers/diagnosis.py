"""Diagnosis of common faults in the outputs, the noise and the gradient of a classifier.

The diagnosis takes four calls of one compiled program on one or two images, an image of noise and
a black image.

Log-probabilities are not a fault: the objective is the log-odds of a class, which do not change
when a constant is added to all logits of an image, and the logarithm of a softmax is the logits
minus such a constant. Probabilities are a fault: used as logits, they limit the log-odds to a range
of 2, which is too small compared with the penalty on the mask.
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
# Largest length of an axis that can be a channel axis.
_MAX_CHANNELS = 4
# Largest difference of two computations of the same logits on any device, as a share of the range.
_SAME_LOGITS = 0.01
# Changes of logits, in nats, that are too small for the expected range, or clearly present. The
# logits of EfficientNet-Lite0 for photographs differ by about 10 from the logits for a black image,
# and by 0.06 if the photographs are divided by 255.
_TOO_SMALL_CHANGE, _CLEAR_CHANGE = 0.25, 2.5
_NO_TRAINING = (
    "switch off dropout and the batch statistics of normalisation (train=False, "
    "deterministic=True, training=False, model.eval())"
)


class Finding(NamedTuple):
    """A fault of a classifier.

    Attributes:
        problem: the fault, and the expected property.
        advice: remedy of the fault.
    """

    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.advice}"


class _Outputs(NamedTuple):
    """Outputs of the four calls, NumPy arrays.

    Attributes:
        logits: logits of the n images, noise and black, in this order, float32 `[N, K]`.
        again: logits of the same batch in a second call, float32 `[N, K]`.
        shuffled: logits of the same images except black, at other positions of a batch with another
            image in place of black, float32 `[N - 1, K]`.
        scaled: logits of the batch scaled to [0, 255], float32 `[N, K]`.
        gradient: gradient of the log-odds of the predicted class of the n images, float32
            `[n, H, W, C]`, or None.
    """

    logits: np.ndarray
    again: np.ndarray
    shuffled: np.ndarray
    scaled: np.ndarray
    gradient: np.ndarray | None


def diagnose(
    apply: Apply, params: Any, images: jax.Array | np.ndarray, class_names: tuple[str, ...] = ()
) -> tuple[Finding, ...]:
    """Checks a classifier for common faults.

    Args:
        apply: function `apply(params, images) -> logits`.
        params: parameters of the classifier.
        images: real images, float `[N, H, W, C]` in [0, 1]; the first two are used.
        class_names: one name per class, or empty.

    Returns:
        One `Finding` per fault; empty if there is none.

    Raises:
        ValueError: the images do not have the shape `[N, H, W, C]`, or N is 0.
    """
    pixels, wrong_range = _readable_images(images)
    findings = list(wrong_range)
    try:
        output = jax.eval_shape(apply, params, pixels)
    except Exception as error:  # A user-defined model can raise any exception.
        return (*findings, _raised(error, pixels))
    findings += _output_findings(output, len(pixels), class_names)
    if not _is_logits(output, len(pixels)):
        return tuple(findings)
    try:
        outputs, not_differentiable = _run(apply, params, pixels)
    except Exception as error:
        return (*findings, _raised(error, pixels))
    findings += not_differentiable
    finite = np.isfinite(outputs.logits).all(axis=1)
    if not finite.all():
        names = [*(f"image {row}" for row in range(len(pixels))), "noise", "a black image"]
        rows = ", ".join(name for name, sound in zip(names, finite, strict=True) if not sound)
        problem = f"logits are not finite for {rows}; expected finite numbers"
        advice = "check for NaN in the weights, and for a logarithm of or a division by zero"
        return (*findings, Finding(problem, advice))
    # The other outputs may still be infinite, which the findings below report.
    with np.errstate(all="ignore"):
        return (*findings, *_value_findings(outputs), *_gradient_findings(outputs))


def _readable_images(images: Any) -> tuple[jax.Array, list[Finding]]:
    """Returns float32 images `[N, H, W, C]` in [0, 1], and findings on the given images."""
    given = np.asarray(images)
    if given.ndim != 4 or 0 in given.shape or given.dtype.kind not in "fiub":
        raise ValueError(
            f"images have shape {given.shape} and type {given.dtype}; expected float32 [N, H, W, C]"
            " in [0, 1]: add a leading axis to a single image with images[None]"
        )
    findings = []
    if 1 <= given.shape[1] <= _MAX_CHANNELS < min(given.shape[2:]):
        problem = f"images have shape {list(given.shape)}, channels first; expected [N, H, W, C]"
        findings.append(Finding(problem, "put their channels last: images.transpose(0, 2, 3, 1)"))
        given = np.moveaxis(given, 1, -1)
    given, dtype = given[:_MAX_IMAGES].astype(np.float32), given.dtype
    finite = np.isfinite(given)
    pixels = np.where(finite, given, 0.0)
    low, high = float(pixels.min()), float(pixels.max())
    is_8_bit = low >= 0.0 and high > 2.0
    batch = jnp.asarray(np.clip(pixels / (255.0 if is_8_bit else 1.0), 0.0, 1.0))
    if dtype.kind == "f" and finite.all() and low >= 0.0 and high <= 1.0:
        return batch, findings
    some = "" if finite.all() else ", some not finite"
    problem = f"images are {dtype} over [{low:.4g}, {high:.4g}]{some}; expected float32 in [0, 1]"
    advice = "undo their normalisation, which is part of the classifier"
    if is_8_bit or dtype.kind != "f":
        advice = "divide 8-bit images by 255; further normalisation is part of the classifier"
    elif not finite.all():
        advice = "leave out images whose pixels are not finite"
    return batch, [*findings, Finding(problem, advice)]


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
    problem = f"output is {output.dtype} {list(output.shape)} for {num_images} images; {expected}"
    if output.shape == (num_images, 1):
        yield Finding(problem, 'pass logits="sigmoid" for the single logit of a binary classifier')
    elif not _is_logits(output, num_images):
        yield Finding(problem, "return one row of logits per image, before softmax and argmax")
    elif output.dtype != jnp.float32:
        yield Finding(problem, "return logits.astype(jax.numpy.float32)")
    if class_names and _is_logits(output, num_images) and len(class_names) != output.shape[1]:
        yield Finding(
            f"{len(class_names)} class names for {output.shape[1]} classes",
            "give one name for each class, in the order of the logits",
        )


def _raised(error: Exception, images: jax.Array) -> Finding:
    return Finding(
        f"apply raises {_main_line(error)}, for images {list(images.shape)}; expected logits",
        "jax.jit(classifier.apply)(classifier.params, images) shows the whole error; images are "
        "[N, H, W, C], so a channels-first network needs channels_first=True in its adapter",
    )


def _main_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    # The text of an error on the host contains a traceback, with the message at the end.
    line = lines[-1] if any("Traceback" in line for line in lines) else lines[0]
    return f"{type(error).__name__}: {line.rstrip('.:')}"


def _logits_and_gradient(
    apply: Apply, params: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the logits and the gradient of the log-odds of the predicted class of each image."""

    def total(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = apply(params, images).astype(jnp.float32)
        return jnp.sum(log_odds(logits, jnp.argmax(logits, axis=1, keepdims=True))), logits

    gradient, logits = jax.grad(total, has_aux=True)(images)
    return logits, gradient


def _logits_alone(apply: Apply, params: Any, images: jax.Array) -> tuple[jax.Array, None]:
    return apply(params, images).astype(jnp.float32), None


def _run(apply: Apply, params: Any, images: jax.Array) -> tuple[_Outputs, list[Finding]]:
    """Calls the classifier four times, with gradients if it is differentiable."""
    noise = jnp.asarray(np.random.default_rng(0).random((1, *images.shape[1:]), np.float32))
    batch = jnp.concatenate([images, noise, jnp.zeros_like(noise)])
    shuffled = jnp.concatenate([batch[-2:-1], batch[-2::-1]])
    findings = []
    # New jit functions, because the cache of a module-level function would keep the model in
    # memory.
    try:
        program = jax.jit(functools.partial(_logits_and_gradient, apply))
        logits, gradient = jax.device_get(program(params, batch))
    except Exception as error:
        program = jax.jit(functools.partial(_logits_alone, apply))
        logits, gradient = jax.device_get(program(params, batch))
        findings.append(
            Finding(
                f"the gradient of the logits raises {_main_line(error)}; expected a gradient",
                "use differentiable JAX operations from the images to the logits",
            )
        )
    again, moved, scaled = (
        jax.device_get(program(params, rows)[0]) for rows in (batch, shuffled, 255.0 * batch)
    )
    # Restore the order of `batch`, without the black image.
    moved = moved[:0:-1]
    gradient = None if gradient is None else gradient[: len(images)]
    return _Outputs(logits, again, moved, scaled, gradient), findings


def _value_findings(outputs: _Outputs) -> Iterator[Finding]:
    logits = outputs.logits
    if (logits >= 0.0).all() and np.allclose(logits.sum(axis=1), 1.0, atol=1e-3):
        yield Finding(
            "outputs are probabilities, each row non-negative with the sum 1; expected logits",
            "return the input of the softmax, or log-probabilities (jax.nn.log_softmax), which "
            "have the same log-odds",
        )
    elif all(((rows >= 0.0) & (rows <= 1.0)).all() for rows in (logits, outputs.scaled)):
        yield Finding(
            "outputs are all within [0, 1], as those of sigmoids; expected logits",
            "return the input of the sigmoid",
        )
    tolerance = _SAME_LOGITS * np.ptp(logits) + 1e-5 * np.abs(logits).max()
    noise = np.abs(outputs.again - logits).max()
    if not noise <= tolerance:
        yield Finding(
            f"logits of the same images differ by {noise:.3g} between two calls; expected the same",
            _NO_TRAINING,
        )
        return
    moved = np.abs(outputs.shuffled - logits[:-1]).max()
    if not moved <= tolerance:
        yield Finding(
            f"logits of an image change by {moved:.3g} with its place and the other images of the "
            "batch; expected logits that depend on the image alone",
            _NO_TRAINING,
        )
        return
    yield from _response_findings(outputs)


def _response_findings(outputs: _Outputs) -> Iterator[Finding]:
    """Yields findings on how the logits depend on the image, up to a constant per row."""
    logits, scaled = (
        rows - rows.mean(axis=1, keepdims=True) for rows in (outputs.logits, outputs.scaled)
    )
    if np.abs(logits - logits[0]).max() <= 1e-6 * np.abs(logits).max():
        yield Finding(
            f"logits are the same for {len(logits)} different images; expected them to differ",
            "check for an input that is not used, or for weights that are all zero",
        )
        return
    # Noise is excluded, because networks respond to it even if images give the logits of black.
    rows = [*range(len(logits) - 2), -1]
    change, wider = (np.max(np.ptp(values[rows], axis=0)) for values in (logits, scaled))
    if change < _TOO_SMALL_CHANGE and wider > _CLEAR_CHANGE:
        yield Finding(
            f"logits change by no more than {change:.2g} between images in [0, 1] and a black one, "
            f"but by {wider:.2g} in [0, 255]; expected a network for images in [0, 1]",
            "if it was trained on [0, 255], multiply by 255 in its normalization: "
            "Normalization(mean=(0.0,), std=(1 / 255,))",
        )


def _gradient_findings(outputs: _Outputs) -> Iterator[Finding]:
    gradient = outputs.gradient
    if gradient is None:
        return
    if not np.isfinite(gradient).all():
        yield Finding(
            "the gradient of the logits is not finite; expected finite numbers",
            "check for sqrt, log, norm or where with an infinite derivative",
        )
        return
    is_dead = ~gradient.any(axis=(1, 2, 3))
    varies = np.ptp(outputs.logits, axis=0).any()
    if varies and is_dead.any():
        whose = "" if is_dead.all() else f" for image {int(np.argmax(is_dead))}"
        yield Finding(
            f"the gradient of the logits is zero everywhere{whose}; expected a non-zero gradient",
            "check for stop_gradient, rounding, argmax or a saturated softmax between image and "
            "logits",
        )
