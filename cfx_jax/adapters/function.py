"""A plain function as a `Classifier`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from cfx_jax.adapters._common import adapt
from cfx_jax.classifiers import Classifier, Normalization


def from_function(
    function: Callable[..., jax.Array],
    params: Any = None,
    *,
    name: str = "custom",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
) -> Classifier:
    """Adapts a function that gives logits.

    Args:
        function: `function(params, images) -> logits [N, K]` if `params` are given, else
            `function(images) -> logits`. What it closes over becomes part of every compiled
            program: give large weights as `params`.
        params: any pytree of arrays, or None.
        name: shown in records and reports.
        class_names: one for each class, or none.
        image_size: the `(H, W)` it was trained for, or None when any size will do.
        normalization: what it was trained to see; None gives it the images as they are, in [0, 1].

    Returns:
        A `Classifier` of images `[N, H, W, C]` in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> from cfx_jax import adapters
        >>> classifier = adapters.from_function(lambda images: images.mean((1, 2)))
        >>> classifier.apply(classifier.params, jnp.ones((2, 8, 8, 3))).shape
        (2, 3)
    """

    def ignoring_params(_: Any, images: jax.Array) -> jax.Array:
        return function(images)

    return adapt(
        ignoring_params if params is None else function,
        () if params is None else params,
        name,
        class_names,
        image_size,
        normalization,
    )
