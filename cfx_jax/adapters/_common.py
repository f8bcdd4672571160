"""What all adapters do around a model: normalisation, layout and type of the images."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

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
    """Puts normalisation and layout of the images before `apply`, float32 behind it."""

    def adapted(params: Any, images: jax.Array) -> Any:
        if normalization is not None:
            images = normalization(images)
        if channels_first:
            images = jnp.moveaxis(images, -1, 1)
        # Whatever else is returned passes too, for the checks to name it.
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), apply(params, images))

    return Classifier(
        params=jax.device_put(params),
        apply=adapted,
        name=name,
        class_names=tuple(class_names),
        image_size=image_size,
    )
