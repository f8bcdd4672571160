"""Maps from slopes of the logit of the target; each is of ONE image `[H, W, C]`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido import Question
from cfx_jax.generators import Generator


def gradient(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
) -> jax.Array:
    """The largest absolute slope of the logit over the channels (Simonyan et al., 2014)."""
    del key, generator
    return jnp.max(jnp.abs(_slope(classifier, image, question)), axis=-1)


def gradient_x_input(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
) -> jax.Array:
    """The slope of the logit times the pixel, summed over the channels (Shrikumar et al., 2016)."""
    del key, generator
    return jnp.sum(image * _slope(classifier, image, question), axis=-1)


def smooth_grad(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
    num_draws: int = 32,
    spread: float = 0.15,
) -> jax.Array:
    """The mean slope under noise of 15 % of the image's range (Smilkov et al., 2017)."""
    del generator
    sigma = spread * (image.max() - image.min())

    def slope(key: jax.Array) -> jax.Array:
        noise = sigma * jax.random.normal(key, image.shape)
        return _slope(classifier, image + noise, question)

    slopes = jax.lax.map(slope, jax.random.split(key, num_draws))
    return jnp.max(jnp.abs(slopes.mean(axis=0)), axis=-1)


def integrated_gradients(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
    num_steps: int = 32,
) -> jax.Array:
    """Slopes along the way from black to the image, times the image (Sundararajan et al., 2017).

    By the midpoint rule. The map adds up to the difference of the logits of the image and of black.
    """
    del key, generator
    places = (jnp.arange(num_steps) + 0.5) / num_steps
    slopes = jax.lax.map(lambda share: _slope(classifier, share * image, question), places)
    return jnp.sum(image * slopes.mean(axis=0), axis=-1)


def grad_cam(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
) -> jax.Array:
    """What the last feature maps say for the class, enlarged (Selvaraju et al., ICCV 2017).

    Formula: `relu(sum_k a_k A_k)`, A_k the last maps `[h, w]` that a Flax module of the classifier
    returns before they are pooled, a_k the mean slope of the logit over them. For convolutional
    networks in Flax Linen; a transformer has no such maps.

    Raises:
        ValueError: no module of the classifier returns maps.
    """
    del key, generator
    place, shape = find_last_maps(classifier, image[None])

    def logit(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen: list[jax.Array] = []

        def add(maps: jax.Array) -> jax.Array:
            seen.append(maps)
            return maps + change if len(seen) == place + 1 else maps

        with nn.intercept_methods(_on_maps(add)):
            logits = classifier.apply(classifier.params, image[None])
        return question.logit(logits[0]), seen[place]

    slopes, maps = jax.grad(logit, has_aux=True)(jnp.zeros(shape))
    weights = slopes.mean(axis=(1, 2), keepdims=True)
    coarse = jax.nn.relu(jnp.sum(weights * maps, axis=-1))[0]
    return jax.image.resize(coarse, image.shape[:2], "linear")


def _slope(classifier: Classifier, image: jax.Array, question: Question) -> jax.Array:
    def logit(image: jax.Array) -> jax.Array:
        return question.logit(classifier.apply(classifier.params, image[None])[0])

    return jax.grad(logit)(image)


def _on_maps(function: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    """Applies a function to whatever a Flax module returns that has rows and columns."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        is_maps = context.method_name == "__call__" and jnp.ndim(result) == 4
        return function(result) if is_maps and min(result.shape[1:3]) > 1 else result

    return intercept


def find_last_maps(
    classifier: Classifier, images: jax.Array | jax.ShapeDtypeStruct
) -> tuple[int, tuple[int, ...]]:
    """Returns how many feature maps come before the last ones, and their shape; runs nothing.

    Raises:
        ValueError: no module of the classifier returns maps.
    """
    shapes: list[tuple[int, ...]] = []

    def note(maps: jax.Array) -> jax.Array:
        shapes.append(maps.shape)
        return maps

    # A function of its own, or JAX would remember that it has been here, and nothing be noted.
    with nn.intercept_methods(_on_maps(note)):
        jax.eval_shape(lambda p, x: classifier.apply(p, x), classifier.params, images)
    if not shapes:
        raise ValueError(
            f"classifier {classifier.name!r} has no feature maps that a module of Flax Linen "
            "returns, so there is no Grad-CAM of it"
        )
    return len(shapes) - 1, shapes[-1]
