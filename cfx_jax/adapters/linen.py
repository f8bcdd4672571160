"""Adapts Flax Linen modules."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cfx_jax.adapters._common import adapt, check_instance
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
        module: module that returns logits, before softmax.
        variables: variable collections, `params` and for example `batch_stats`.
        name: name in records and reports; "" = the name of the class.
        class_names: one name per class, as in `from_function`.
        image_size: image size `(H, W)`, as in `from_function`.
        normalization: normalisation of the images, as in `from_function`.
        **kwargs: arguments of the module, for example `train=False` or `deterministic=True`.

    Returns:
        A `Classifier` whose parameters are all the variables.

    Raises:
        ValueError: `module` is not an instance of `nn.Module`, or `variables` is not a dict, or has
            no collection `params` or no values.
    """
    from flax import linen

    check_instance(module, linen.Module, "flax.linen.Module")
    if not isinstance(variables, Mapping):
        raise ValueError(
            f"variables are a {type(variables).__name__}; expected a dict of collections: pass "
            '{"params": state.params} of a train state, with its other collections, such as '
            "`batch_stats`"
        )
    if variables and "params" not in variables:
        raise ValueError(
            f"variables have the collections {sorted(variables)}; expected `params` among them: "
            'pass parameters alone as {"params": params}'
        )

    def apply(variables: Any, images: jax.Array) -> Any:
        return module.apply(variables, images, mutable=False, **kwargs)

    name = name or type(module).__name__
    return adapt(apply, variables, name, class_names, image_size, normalization)
