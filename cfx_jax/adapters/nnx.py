"""Adapter of Flax NNX modules."""

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
    """Adapts a `flax.nnx` module, a copy of which is put into evaluation mode.

    Args:
        model: model that returns logits, before softmax; it is not changed.
        name: name in records and reports; empty takes that of the class.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        **kwargs: arguments of every call of the model.

    Returns:
        A `Classifier` whose parameters are the state of the model.

    Raises:
        ValueError: it is no instance of `nnx.Module`, or its parameters have no values.
    """
    from flax import nnx

    check_instance(model, nnx.Module, "flax.nnx.Module")
    model = nnx.clone(model)
    model.eval()
    graph, state = nnx.split(model)

    def apply(state: Any, images: jax.Array) -> Any:
        # A new model with variables of its own in every trace, so that a call may change them, and
        # the changes are dropped.
        return nnx.merge(graph, state, copy=True)(images, **kwargs)

    name = name or type(model).__name__
    return adapt(apply, state, name, class_names, image_size, normalization)
