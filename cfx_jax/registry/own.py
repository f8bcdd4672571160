"""Models that functions of a user's own build."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from cfx_jax.adapters import named
from cfx_jax.classifiers import Classifier
from cfx_jax.config import ConfigError
from cfx_jax.generators import Generator

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


def check_runs(model: Classifier | Generator, *arguments: jax.ShapeDtypeStruct) -> None:
    """Traces a model of the user's own: what it raises is no fault of this package.

    Raises:
        ConfigError: it raises something.
    """
    _trace(model, "", model.apply, *arguments)


def check_learns(classifier: Classifier, images: jax.ShapeDtypeStruct) -> None:
    """Traces what learning asks of a classifier of the user's own: its gradient, image by image.

    Raises:
        ConfigError: it raises something.
    """

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
