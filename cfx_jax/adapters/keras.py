"""Adapts Keras models."""

import inspect
from collections.abc import Sequence
from typing import Any

import jax

from cfx_jax.adapters._common import adapt, check_instance
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

    Keras must run on JAX: set the environment variable `KERAS_BACKEND=jax` before it is first
    imported. Most published Keras models end in a softmax: build them with
    `classifier_activation=None`. For models that include their normalisation and expect images in
    [0, 255], pass `Normalization(mean=(0.0,), std=(1 / 255,))`.

    Args:
        model: a built model that returns logits, before softmax.
        name: name in records and reports; "" = the name of the model.
        class_names: one name per class, as in `from_function`.
        image_size: image size `(H, W)`, as in `from_function`.
        normalization: normalisation of the images, as in `from_function`.
        channels_first: whether the model takes `[N, C, H, W]`.

    Returns:
        A `Classifier` whose parameters are a snapshot of the variables of the model.

    Raises:
        ValueError: Keras runs on another backend, or the model is not a built instance.
    """
    import keras

    if (backend := keras.backend.backend()) != "jax":
        raise ValueError(
            f"keras runs on {backend!r}; expected 'jax': set the environment variable "
            "KERAS_BACKEND=jax before keras is first imported"
        )
    check_instance(model, keras.Layer, "keras.Model")
    if not model.built:
        raise ValueError(
            f"the keras model {model.name!r} is not built and has no variables yet: call it once"
        )
    variables = {
        "trainable": [variable.value for variable in model.trainable_variables],
        "non_trainable": [variable.value for variable in model.non_trainable_variables],
    }
    # `call` may have no argument `training`; then its layers are in inference mode by default.
    has_training = "training" in inspect.signature(model.call).parameters
    mode = {"training": False} if has_training else {}

    def apply(variables: Any, images: jax.Array) -> Any:
        arrays = (variables["trainable"], variables["non_trainable"])
        return model.stateless_call(*arrays, images, **mode)[0]

    name = name or model.name
    return adapt(apply, variables, name, class_names, image_size, normalization, channels_first)
