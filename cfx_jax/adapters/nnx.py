"""Adapts Flax NNX modules."""

from collections.abc import Sequence
from typing import Any

import jax

from cfx_jax.adapters._common import adapt, check_instance
from cfx_jax.classifiers import Classifier, Normalization


def from_nnx(
    model: Any,
    *,
    name: str = "",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
    **kwargs: Any,
) -> Classifier:
    """Adapts a `flax.nnx` module; a copy is put into evaluation mode.

    Args:
        model: model that returns logits, before softmax; it is not changed.
        name: name in records and reports; "" = the name of the class.
        class_names: one name per class, as in `from_function`.
        image_size: image size `(H, W)`, as in `from_function`.
        normalization: normalisation of the images, as in `from_function`.
        **kwargs: arguments of every call of the model.

    Returns:
        A `Classifier` whose parameters are the state of the model.

    Raises:
        ValueError: the model is not an instance of `nnx.Module`, or its parameters have no values.
    """
    from flax import nnx

    check_instance(model, nnx.Module, "flax.nnx.Module")
    model = nnx.clone(model)
    model.eval()
    graph, state = nnx.split(model)

    def apply(state: Any, images: jax.Array) -> Any:
        # Each trace gets a new model with its own variables, so that a call may change them; the
        # changes are dropped.
        return nnx.merge(graph, state, copy=True)(images, **kwargs)

    name = name or type(model).__name__
    return adapt(apply, state, name, class_names, image_size, normalization)
