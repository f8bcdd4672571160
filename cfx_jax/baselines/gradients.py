"""Maps from gradients of the logit of the target; each function takes ONE image `[H, W, C]`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax.baselines.case import Case
from cfx_jax.classifiers import Classifier


def gradient(case: Case) -> jax.Array:
    """Returns the absolute gradient, maximum over the channels (Simonyan et al., 2014)."""
    return jnp.max(jnp.abs(_logit_gradient(case, case.image)), axis=-1)


def gradient_x_input(case: Case) -> jax.Array:
    """Returns gradient times pixel, summed over the channels (Shrikumar et al., 2016)."""
    return jnp.sum(case.image * _logit_gradient(case, case.image), axis=-1)


def smooth_grad(case: Case, num_draws: int = 32, spread: float = 0.15) -> jax.Array:
    """Returns the mean gradient under noise of 15 % of the image range (Smilkov et al., 2017)."""
    sigma = spread * (case.image.max() - case.image.min())

    def noisy_gradient(key: jax.Array) -> jax.Array:
        noise = sigma * jax.random.normal(key, case.image.shape)
        return _logit_gradient(case, case.image + noise)

    gradients = jax.lax.map(noisy_gradient, jax.random.split(case.key, num_draws))
    return jnp.max(jnp.abs(gradients.mean(axis=0)), axis=-1)


def integrated_gradients(case: Case, num_steps: int = 32) -> jax.Array:
    """Integrates gradients from a black image to the image (Sundararajan et al., 2017).

    The mean gradient along the line, by the midpoint rule, is multiplied by the image. The map adds
    up to the difference of the logits of the image and of the black image.
    """
    scales = (jnp.arange(num_steps) + 0.5) / num_steps
    gradients = jax.lax.map(lambda scale: _logit_gradient(case, scale * case.image), scales)
    return jnp.sum(case.image * gradients.mean(axis=0), axis=-1)


def grad_cam(case: Case) -> jax.Array:
    """Returns the weighted last feature maps, upsampled (Grad-CAM, Selvaraju et al., ICCV 2017).

    Formula: `relu(sum_k a_k A_k)`, where A_k are the last feature maps `[h, w]` that a Flax module
    of the classifier returns before pooling, and a_k is the mean gradient of the logit over A_k.
    It supports convolutional networks in Flax Linen; transformers have no such maps.

    Raises:
        ValueError: no module of the classifier returns maps.
    """
    last, shape = find_last_maps(case.classifier, case.image[None])

    def logit(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        all_maps: list[jax.Array] = []

        def add_change(maps: jax.Array) -> jax.Array:
            all_maps.append(maps)
            return maps + change if len(all_maps) == last + 1 else maps

        with nn.intercept_methods(_intercept_maps(add_change)):
            logits = case.classifier.apply(case.classifier.params, case.image[None])
        return case.question.logit(logits[0]), all_maps[last]

    gradients, maps = jax.grad(logit, has_aux=True)(jnp.zeros(shape))
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    coarse = jax.nn.relu(jnp.sum(weights * maps, axis=-1))[0]
    return jax.image.resize(coarse, case.image.shape[:2], "linear")


def _logit_gradient(case: Case, image: jax.Array) -> jax.Array:
    def logit(image: jax.Array) -> jax.Array:
        return case.question.logit(case.classifier.apply(case.classifier.params, image[None])[0])

    return jax.grad(logit)(image)


def _intercept_maps(function: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    """Returns a Flax interceptor that applies a function to all feature maps of modules."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        is_maps = context.method_name == "__call__" and jnp.ndim(result) == 4
        return function(result) if is_maps and min(result.shape[1:3]) > 1 else result

    return intercept


def find_last_maps(
    classifier: Classifier, images: jax.Array | jax.ShapeDtypeStruct
) -> tuple[int, tuple[int, ...]]:
    """Finds the last feature maps of a classifier, without running it.

    Args:
        classifier: model in Flax Linen.
        images: images, float32 `[N, H, W, C]`, or their shape.

    Returns:
        `(index, shape)`: the index of the last feature maps in the order of calls, and their shape
        `[N, h, w, K]`.

    Raises:
        ValueError: no module of the classifier returns maps.
    """
    shapes: list[tuple[int, ...]] = []

    def record_shape(maps: jax.Array) -> jax.Array:
        shapes.append(maps.shape)
        return maps

    # A new function for each call, since JAX would reuse a cached trace and record no shapes.
    with nn.intercept_methods(_intercept_maps(record_shape)):
        jax.eval_shape(lambda p, x: classifier.apply(p, x), classifier.params, images)
    if not shapes:
        raise ValueError(
            f"classifier {classifier.name!r} has no feature maps that a module of Flax Linen "
            "returns, so Grad-CAM does not support it"
        )
    return len(shapes) - 1, shapes[-1]
