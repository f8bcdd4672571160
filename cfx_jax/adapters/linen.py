"""A module of Flax Linen as a `Classifier`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cfx_jax.adapters._common import adapt
from cfx_jax.classifiers import Classifier, Normalization


def from_linen(
    module: Any,
    variables: Mapping[str, Any],
    *,
    name: str = "",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
    **kwargs: Any,
) -> Classifier:
    """Adapts a `flax.linen` module.

    Args:
        module: gives logits, before softmax.
        variables: its collections, `params` and for example `batch_stats`.
        name: shown in records and reports; that of the class if empty.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        **kwargs: passed to the module, for example `train=False` or `deterministic=True`.

    Returns:
        A `Classifier` whose parameters are all the variables.

    Raises:
        ValueError: `variables` have no collection `params`.
    """
    if variables and "params" not in variables:
        raise ValueError(
            f"variables have the collections {sorted(variables)}; expected `params` among them: "
            'parameters alone are given as {"params": params}'
        )

    def apply(variables: Any, images: jax.Array) -> Any:
        return module.apply(variables, images, mutable=False, **kwargs)

    name = name or type(module).__name__
    return adapt(apply, variables, name, class_names, image_size, normalization)
