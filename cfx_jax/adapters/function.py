"""Adapts plain functions."""

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
    """Adapts a function that returns logits.

    Args:
        function: function `function(params, images) -> logits [N, K]` if `params` are given, else
            `function(images) -> logits`. Arrays that it closes over become constants of every
            compiled program, so pass large weights as `params`.
        params: any pytree of arrays, or None.
        name: name in records and reports.
        class_names: one name per class, or empty.
        image_size: image size `(H, W)` used in training, or None for any size.
        normalization: normalisation used in training; None passes images in [0, 1] unchanged.

    Returns:
        A `Classifier` for images `[N, H, W, C]` in [0, 1].

    Raises:
        ValueError: `function` cannot be called, or a parameter is not an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from cfx_jax import adapters
        >>> classifier = adapters.from_function(lambda images: images.mean((1, 2)))
        >>> classifier.apply(classifier.params, jnp.ones((2, 8, 8, 3))).shape
        (2, 3)
    """
    if not callable(function):
        raise ValueError(f"function is {function!r:.80}; expected a function that returns logits")

    def apply_without_params(_: Any, images: jax.Array) -> jax.Array:
        return function(images)

    return adapt(
        apply_without_params if params is None else function,
        () if params is None else params,
        name,
        class_names,
        image_size,
        normalization,
    )
