"""`Generator`, the interface between the engine and the model that fills holes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import flax.struct
import jax


@flax.struct.dataclass
class Generator:
    """An in-fill model as a frozen value, a pytree whose leaves are its parameters.

    Attributes:
        params: parameters, any pytree; `()` for a heuristic.
        apply: pure function `apply(params, images, mask, key) -> infill`. `images` and `infill` are
            float32 `[N, H, W, C]` in [0, 1]; `mask` is float32 `[N, H, W, 1]`, exactly 1 (keep) or
            0 (fill); `key` is a JAX random key, ignored by deterministic generators. The caller
            computes the composite `mask * images + (1 - mask) * infill`. While a mask is learnt, it
            is soft in the composite, so kept pixels of `infill` count, too; return the image there,
            or an in-fill. Pass the same function to every call, since every new function is
            compiled again.
        name: name in records and reports.
        origin: SHA-256 of the sources of the model, as in `cfx_jax.Classifier.origin`.
        scalable: whether `apply` fills the large holes of an image about as well at half its
            resolution, as networks for photographs do. With `Settings.coarse_infill`, holes are
            then filled at half the resolution while a mask is learnt.

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
    scalable: bool = flax.struct.field(pytree_node=False, default=False)

    if TYPE_CHECKING:
        # Flax generates this method at run time, where type checkers do not see it.
        def replace(self, **changes: Any) -> Self:
            """Returns a copy with other fields."""
