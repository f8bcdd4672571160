"""The common part of all adapters: normalisation, layout and type of the images."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers import Classifier, Normalization

Apply = Callable[[Any, jax.Array], Any]


def adapt(
    apply: Apply,
    params: Any,
    name: str,
    class_names: Sequence[str],
    image_size: tuple[int, int] | None,
    normalization: Normalization | None,
    channels_first: bool = False,
) -> Classifier:
    """Builds a `Classifier` that normalises and transposes images before `apply`, and casts logits.

    Args:
        apply: function `apply(params, images) -> logits` of the adapted model.
        params: parameters, any pytree.
        name: name in records and reports.
        class_names: one name per class, or empty.
        image_size: image size `(H, W)`, or None.
        normalization: normalisation of the images, or None.
        channels_first: whether `apply` takes `[N, C, H, W]`.

    Returns:
        A `Classifier` for images `[N, H, W, C]` in [0, 1] with float32 logits.

    Raises:
        ValueError: a parameter is not an array of numbers.
    """
    _check_params(params)

    def adapted(params: Any, images: jax.Array) -> Any:
        if normalization is not None:
            images = normalization(images)
        if channels_first:
            images = jnp.moveaxis(images, -1, 1)
        # Outputs other than an array are passed on, so that the checks can report them.
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), apply(params, images))

    return Classifier(
        params=jax.device_put(params),
        apply=adapted,
        name=name,
        class_names=tuple(class_names),
        image_size=image_size,
    )


def check_instance(model: Any, kind: type[Any], name: str) -> None:
    """Raises a ValueError unless a model is an instance of its library's class of modules.

    Args:
        model: model that was passed.
        kind: class of modules of the library.
        name: full name of this class, for the message.
    """
    if isinstance(model, kind):
        return
    what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise ValueError(f"the model is {what}; expected an instance of {name}")


def _check_params(params: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(leaf, jax.Array | np.ndarray | np.number | bool | int | float):
            continue
        name = jax.tree_util.keystr(path)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f"the parameter {name} has a shape but no values; load the weights before the "
                "model is adapted"
            )
        raise ValueError(f"the parameter {name} is a {type(leaf).__name__}; expected an array")
