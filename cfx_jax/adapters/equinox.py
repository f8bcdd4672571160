"""An Equinox model as a `Classifier`."""

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
    """Adapts an Equinox model of one image, put into inference mode.

    Args:
        model: `model(image) -> logits [K]`, before softmax, or `model(image, state) -> (logits,
            state)` if `state` is given.
        state: of a model from `equinox.nn.make_with_state`, for example one with `BatchNorm`.
        name: shown in records and reports; that of the class if empty.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        channels_first: whether the model takes `[C, H, W]`, as the layers of Equinox do.
        **kwargs: passed to every call of the model, for example `key=None`.

    Returns:
        A `Classifier` whose parameters are the arrays of the model and of its state.
    """
    import equinox as eqx

    # Arrays of NumPy too, which would otherwise become constants of the compiled program.
    arrays, rest = eqx.partition(
        (eqx.nn.inference_mode(model), state),
        lambda leaf: isinstance(leaf, (jax.Array, np.ndarray)),
    )

    def apply(arrays: Any, images: jax.Array) -> Any:
        model, state = eqx.combine(arrays, rest)

        def one(image: jax.Array) -> Any:
            if state is None:
                return model(image, **kwargs)
            return model(image, state, **kwargs)[0]

        return jax.vmap(one)(images)

    return adapt(
        apply,
        arrays,
        name or type(model).__name__,
        class_names,
        image_size,
        normalization,
        channels_first,
    )
