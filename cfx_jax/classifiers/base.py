"""The `Classifier` value: what the engine needs to know about the model it explains."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class Classifier:
    """An image classifier as a frozen value, a pytree whose leaves are its parameters.

    `params` is a pytree leaf set, everything else is static: a `Classifier` passes through `jit`,
    `vmap` and `pmap` as an argument and its weights are never baked into a compiled program.

    Attributes:
        params: parameters, any pytree.
        apply: pure `apply(params, images) -> logits`. `images` is float32 `[N, H, W, C]` in
            [0, 1]; normalisation is the classifier's own business. `logits` is float32
            `[N, num_classes]` BEFORE softmax, with at least two classes. Pass a function that
            lives as long as the program (a module-level function, not a fresh lambda for every
            call): compiled programs are cached by its identity.
        name: shown in records and reports.
        class_names: one name per class, or empty.
        image_size: the `(H, W)` it was trained for, or None when any size will do.

    Example:
        >>> import jax.numpy as jnp
        >>> def apply(params, images):
        ...     return images.reshape(len(images), -1) @ params
        >>> classifier = Classifier(params=jnp.ones((12, 2)), apply=apply)
        >>> classifier.apply(classifier.params, jnp.ones((5, 2, 2, 3))).shape
        (5, 2)
    """

    params: Any
    apply: Callable[[Any, jax.Array], jax.Array] = flax.struct.field(pytree_node=False)
    name: str = flax.struct.field(pytree_node=False, default="custom")
    class_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    image_size: tuple[int, int] | None = flax.struct.field(pytree_node=False, default=None)
