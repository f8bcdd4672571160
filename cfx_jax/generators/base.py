"""The `Generator` value: what the engine needs to know about the model that fills holes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import flax.struct
import jax


@flax.struct.dataclass
class Generator:
    """An in-filling model as a frozen value, a pytree whose leaves are its parameters.

    Attributes:
        params: parameters, any pytree; `()` for a heuristic.
        apply: pure `apply(params, images, mask, key) -> infill`. `images` and `infill` are float32
            `[N, H, W, C]` in [0, 1]; `mask` is float32 `[N, H, W, 1]` of exact zeros and ones,
            1 = keep, 0 = fill; `key` is a JAX random key, ignored by deterministic generators.
            The caller composes `mask * images + (1 - mask) * infill`; while a mask is learnt it is
            half transparent there, so kept pixels of `infill` count, too: return the image there,
            or what you would fill. Pass a function that lives as long as the program.
        name: shown in records and reports.
        origin: as that of a `cfx_jax.Classifier`.

    Example:
        >>> import jax.numpy as jnp
        >>> def black(params, images, mask, key):
        ...     return jnp.zeros_like(images)
        >>> generator = Generator(params=(), apply=black, name="black")
    """

    params: Any
    apply: Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array] = flax.struct.field(
        pytree_node=False
    )
    name: str = flax.struct.field(pytree_node=False, default="custom")
    origin: str = flax.struct.field(pytree_node=False, default="")

    if TYPE_CHECKING:
        # Flax makes it, and type checkers do not know of it.
        def replace(self, **changes: Any) -> Self:
            """Returns a copy with other fields."""
