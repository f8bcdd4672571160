"""Adapts Equinox models."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cfx_jax.adapters._common import adapt
from cfx_jax.classifiers import Classifier, Normalization


def from_equinox(
    model: Any,
    state: Any = None,
    *,
    name: str = "",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
    channels_first: bool = True,
    **kwargs: Any,
) -> Classifier:
    """Adapts an Equinox model that takes one image; a copy is put into inference mode.

    Args:
        model: function `model(image) -> logits [K]`, before softmax, or `model(image, state) ->
            (logits, state)` if `state` is given.
        state: state of a model from `equinox.nn.make_with_state`, for example with `BatchNorm`.
        name: name in records and reports; "" = the name of the class.
        class_names: one name per class, as in `from_function`.
        image_size: image size `(H, W)`, as in `from_function`.
        normalization: normalisation of the images, as in `from_function`.
        channels_first: whether the model takes `[C, H, W]`, like the layers of Equinox.
        **kwargs: arguments of every call of the model, for example `key=None`.

    Returns:
        A `Classifier` whose parameters are the arrays of the model and of its state.
    """
    import equinox as eqx

    # NumPy arrays count as parameters; otherwise they would be constants of the compiled program.
    arrays, static = eqx.partition(
        (eqx.nn.inference_mode(model), state),
        lambda leaf: isinstance(leaf, (jax.Array, np.ndarray)),
    )

    def apply(arrays: Any, images: jax.Array) -> Any:
        model, state = eqx.combine(arrays, static)

        def apply_one(image: jax.Array) -> Any:
            if state is None:
                return model(image, **kwargs)
            return model(image, state, **kwargs)[0]

        return jax.vmap(apply_one)(images)

    name = name or type(model).__name__
    return adapt(apply, arrays, name, class_names, image_size, normalization, channels_first)
