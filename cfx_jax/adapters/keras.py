"""A Keras model as a `Classifier`."""

import inspect
from collections.abc import Sequence
from typing import Any

import jax

from cfx_jax.adapters._common import adapt
from cfx_jax.classifiers import Classifier, Normalization


def from_keras(
    model: Any,
    *,
    name: str = "",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
    channels_first: bool = False,
) -> Classifier:
    """Adapts a Keras 3 model, called with `training=False`.

    Keras has to run on JAX: set the environment variable `KERAS_BACKEND=jax` before it is first
    imported. Most published Keras models end in a softmax: build them with
    `classifier_activation=None`. Some normalise by themselves and want images in [0, 255]: give
    `Normalization(mean=(0.0,), std=(1 / 255,))`.

    Args:
        model: built, gives logits, before softmax.
        name: shown in records and reports; that of the model if empty.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        channels_first: whether the model takes `[N, C, H, W]`.

    Returns:
        A `Classifier` whose parameters are the variables of the model, as they are now.

    Raises:
        ValueError: Keras runs on another backend, or the model is not built.
    """
    import keras

    if (backend := keras.backend.backend()) != "jax":
        raise ValueError(
            f"keras runs on {backend!r}; expected 'jax': set the environment variable "
            "KERAS_BACKEND=jax before keras is first imported"
        )
    if not model.built:
        raise ValueError(
            f"the keras model {model.name!r} is not built and has no variables yet: call it once"
        )
    variables = {
        "trainable": [variable.value for variable in model.trainable_variables],
        "non_trainable": [variable.value for variable in model.non_trainable_variables],
    }
    # Passed to `call` as it is, which may not know it; then the layers are not training either.
    knows_training = "training" in inspect.signature(model.call).parameters
    mode = {"training": False} if knows_training else {}

    def apply(variables: Any, images: jax.Array) -> Any:
        arrays = (variables["trainable"], variables["non_trainable"])
        return model.stateless_call(*arrays, images, **mode)[0]

    return adapt(
        apply,
        variables,
        name or model.name,
        class_names,
        image_size,
        normalization,
        channels_first,
    )
