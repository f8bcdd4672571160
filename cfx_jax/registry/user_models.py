"""Builds user-defined models with a named function, and checks models before a run starts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from cfx_jax.adapters import named
from cfx_jax.classifiers import Classifier
from cfx_jax.config import ConfigError, ExplainConfig
from cfx_jax.fido import check_classes, check_problem, count_classes
from cfx_jax.generators import Generator, check_fills, one_line

Model = TypeVar("Model", Classifier, Generator)


def build(
    name: str,
    weights: str | None,
    adapt: Callable[[Any], Model],
    example_inputs: Callable[[Model], tuple[jax.Array, ...]],
) -> Model:
    """Calls a user-defined function and adapts the model that it returns.

    Args:
        name: name of the function, `package.module:function` or `path/to/file.py:function`.
        weights: argument of the function; None calls it without an argument.
        adapt: converts the result of the function to a `Classifier` or a `Generator`.
        example_inputs: function of the model that returns the inputs of `apply`, without
            parameters.

    Returns:
        The model, with its `origin`.

    Raises:
        ValueError: the function does not exist, raises, or does not return a model.
    """
    model = named.build(name, weights)
    try:
        adapted = adapt(model)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:  # A user-defined model can raise any exception.
        kind = type(model).__name__
        raise ValueError(
            f"{name}: a {kind} that raises {one_line(error)} when it is adapted"
        ) from error
    constants = _find_constants(adapted.apply, adapted.params, *example_inputs(adapted))
    return dataclasses.replace(adapted, origin=named.origin(name, weights, constants))


def check_class_names(class_names: Sequence[str], num_classes: int, place: str) -> None:
    """Checks that there is one name per class, for packaged and for user-defined classifiers.

    Args:
        class_names: names of the classes.
        num_classes: number of classes of the classifier.
        place: name of the classifier, or path of its weights, for the message.

    Raises:
        ValueError: the number of names differs from the number of classes.
    """
    if len(class_names) != num_classes:
        raise ValueError(
            f"{len(class_names)} class names are given, but {place} has {num_classes} classes"
        )


def image_shape(classifier: Classifier) -> tuple[int, int, int]:
    """Returns the shape `(H, W, C)` of the images for a classifier.

    Raises:
        ConfigError: the classifier has no image size.
    """
    if classifier.image_size is None:
        raise ConfigError(
            f"classifier {classifier.name!r} has no image size to resize images to; set it, on the "
            "command line --config.classifier.image_size=224"
        )
    return (*classifier.image_size, classifier.channels)


def check_models(classifier: Classifier, generator: Generator, explain: ExplainConfig) -> None:
    """Checks that the models of a run work together, on images of their `image_shape`.

    Args:
        classifier: the model to explain; its image size and channels determine the images.
        generator: model that fills images of that shape.
        explain: config of the explanations; its masks must not be finer than the images, and its
            contrast must be a class.

    Raises:
        ConfigError: the models or settings are incompatible, or a user-defined model raises an
            error or returns in-fills outside of [0, 1].
    """
    shape, settings, contrast = image_shape(classifier), explain.settings(), explain.contrast
    # Trace a batch and a single image, since both occur.
    batch, one = (jax.ShapeDtypeStruct((count, *shape), jnp.float32) for count in (2, 1))
    masks = jax.ShapeDtypeStruct((2, *shape[:2], 1), jnp.float32)
    _trace(classifier, "", classifier.apply, batch)
    _trace(classifier, "", classifier.apply, one)
    _trace(generator, "", generator.apply, batch, masks, jax.eval_shape(lambda: jax.random.key(0)))
    try:
        images = check_problem(
            classifier, generator, jnp.zeros((1, *shape)), "ssr", settings, contrast
        )
        num_classes = count_classes(classifier, images)
        if names := classifier.class_names:
            check_class_names(names, num_classes, classifier.name)
        if contrast is not None:
            check_classes("contrast", contrast, (), num_classes)
        check_fills(generator, shape)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for count in {1, settings.num_samples}:
        _check_gradient(classifier, jax.ShapeDtypeStruct((count, *shape), jnp.float32))


def _check_gradient(classifier: Classifier, images: jax.ShapeDtypeStruct) -> None:
    """Traces the gradient of a classifier under vmap, which learning needs."""

    def gradient(params: Any, images: jax.Array) -> jax.Array:
        return jax.grad(lambda inputs: classifier.apply(params, inputs).sum())(images)

    batch = jax.ShapeDtypeStruct((2, *images.shape), images.dtype)
    mapped = jax.vmap(gradient, in_axes=(None, 0))
    _trace(classifier, " when its gradient is taken", mapped, batch)


def _trace(
    model: Classifier | Generator,
    when: str,
    function: Callable[..., Any],
    *arguments: jax.ShapeDtypeStruct,
) -> None:
    """Traces a user-defined model, and reports its exception as an error of the model."""
    if not named.is_named(model.name):
        return
    try:
        jax.eval_shape(function, model.params, *arguments)
    except Exception as error:
        raise ConfigError(
            f"{model.name} raises {one_line(error)}{when} for images {arguments[0].shape}"
        ) from error


def _find_constants(apply: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Returns the arrays that a function closes over; [] if it cannot be traced."""
    try:
        return list(jax.make_jaxpr(apply)(*arguments).consts)
    except Exception:  # The error is reported where the model is first called.
        return []
