"""Models of a user's own: built by a named function, and checked before a run is begun."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from cfx_jax.adapters import named
from cfx_jax.classifiers import Classifier
from cfx_jax.config import ConfigError, ExplainConfig
from cfx_jax.fido import check_contrast, check_problem
from cfx_jax.generators import Generator, check_fills

Model = TypeVar("Model", Classifier, Generator)


def build(
    name: str,
    weights: str | None,
    adapt: Callable[[Any], Model],
    shown: Callable[[Model], tuple[jax.Array, ...]],
) -> Model:
    """Calls a function of the user's own and adapts what it returns.

    Args:
        name: `package.module:function` or `path/to/file.py:function`.
        weights: what the function is given, if it takes something.
        adapt: makes a model of ours of what it returns.
        shown: model -> what its `apply` takes beside parameters.

    Returns:
        The model, which knows what it is made of.

    Raises:
        ValueError: there is no such function, it raises, or returns something else than a model.
    """
    model = named.build(name, weights)
    try:
        adapted = adapt(model)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    constants = _constants(adapted.apply, adapted.params, *shown(adapted))
    return dataclasses.replace(adapted, origin=named.origin(name, weights, constants))


def image_shape(classifier: Classifier) -> tuple[int, int, int]:
    """Returns the shape `(H, W, C)` that images are brought to for a classifier.

    Raises:
        ConfigError: the classifier has no image size.
    """
    if classifier.image_size is None:
        raise ConfigError(
            f"classifier {classifier.name!r} has no image size to bring images to; give it one, on "
            "the command line --config.classifier.image_size=224"
        )
    return (*classifier.image_size, classifier.channels)


def check_models(classifier: Classifier, generator: Generator, asked: ExplainConfig) -> None:
    """Checks that the models of a run do what is asked of them, on images of their `image_shape`.

    Args:
        classifier: its image size and channels are those of the images.
        generator: fills images of that shape.
        asked: its masks must not be finer than the images, and its contrast must be a class.

    Raises:
        ConfigError: something does not fit together, or a model of the user's own raises an error
            or fills with values that are no pixels.
    """
    shape, settings, contrast = image_shape(classifier), asked.settings(), asked.contrast
    # Two, as many come at once.
    some, one = (jax.ShapeDtypeStruct((count, *shape), jnp.float32) for count in (2, 1))
    masks = jax.ShapeDtypeStruct((2, *shape[:2], 1), jnp.float32)
    _trace(classifier, "", classifier.apply, some)
    _trace(classifier, "", classifier.apply, one)
    _trace(generator, "", generator.apply, some, masks, jax.eval_shape(lambda: jax.random.key(0)))
    try:
        images = check_problem(
            classifier, generator, jnp.zeros((1, *shape)), "ssr", settings, contrast
        )
        check_contrast(contrast, classifier, images)
        check_fills(generator, shape)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for count in {1, settings.num_samples}:
        _check_learns(classifier, jax.ShapeDtypeStruct((count, *shape), jnp.float32))


def _check_learns(classifier: Classifier, images: jax.ShapeDtypeStruct) -> None:
    """Traces what learning asks of a classifier: its gradient, image by image."""

    def gradient(params: Any, images: jax.Array) -> jax.Array:
        return jax.grad(lambda shown: classifier.apply(params, shown).sum())(images)

    batch = jax.ShapeDtypeStruct((2, *images.shape), images.dtype)
    mapped = jax.vmap(gradient, in_axes=(None, 0))
    _trace(classifier, " when its gradient is taken", mapped, batch)


def _trace(
    model: Classifier | Generator,
    when: str,
    function: Callable[..., Any],
    *arguments: jax.ShapeDtypeStruct,
) -> None:
    """Traces a model of the user's own: what it raises is no fault of this package."""
    if not named.is_named(model.name):
        return
    try:
        jax.eval_shape(function, model.params, *arguments)
    except Exception as error:
        raise ConfigError(
            f"{model.name} raises {named.one_line(error)}{when} for images {arguments[0].shape}"
        ) from error


def _constants(apply: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Returns the arrays that a function has closed over, so far as it can be traced."""
    try:
        return list(jax.make_jaxpr(apply)(*arguments).consts)
    except Exception:  # What is wrong with a foreign model is said where it is first called.
        return []
