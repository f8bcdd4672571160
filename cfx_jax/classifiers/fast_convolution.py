"""Replacing the convolutions of a traced function by those of this package.

In a compiled loop on CPU, XLA takes several times as long for the input gradient of a convolution
as outside of the loop, see `cfx_jax.classifiers._convolution`. The networks of this package call
that module. Explanations of other networks get the same speed by `with_fast_convolutions`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import primitives

from cfx_jax.classifiers._convolution import convolve


def with_fast_convolutions(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function whose ordinary convolutions take the lowering that suits the backend.

    Replaces two-dimensional convolutions without groups and dilation, with a square kernel and
    equal strides, in any layout. Other operations, and convolutions inside of loops, conditions and
    custom derivatives, are unchanged, and so is a function without ordinary convolutions.

    Args:
        apply: function of pytrees of arrays, traceable by JAX.

    Returns:
        A function with the same values and derivatives, up to rounding.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def layer(kernel, images):
        ...     numbers = ("NHWC", "HWIO", "NHWC")
        ...     return jax.lax.conv_general_dilated(
        ...         images, kernel, (1, 1), "SAME", dimension_numbers=numbers
        ...     )
        >>> with_fast_convolutions(layer)(jnp.ones((3, 3, 2, 4)), jnp.ones((1, 8, 8, 2))).shape
        (1, 8, 8, 4)
    """

    def fast(*arguments: Any) -> Any:
        # A new function for each call: a cached trace could contain constants of an earlier one.
        new_apply = functools.partial(apply)
        traced, shapes = jax.make_jaxpr(new_apply, return_shape=True)(*arguments)
        if not _has_convolution(traced.jaxpr):
            return apply(*arguments)
        outputs = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return fast


def _has_convolution(jaxpr: core.Jaxpr) -> bool:
    return any(
        _is_ordinary(equation)
        or (equation.primitive is primitives.jit_p and _has_convolution(_inner(equation).jaxpr))
        for equation in jaxpr.eqns
    )


def _inner(equation: Any) -> core.ClosedJaxpr:
    inner: core.ClosedJaxpr = equation.params["jaxpr"]
    return inner


def _is_ordinary(equation: Any) -> bool:
    """Returns whether an operation is a convolution that `convolve` can compute."""
    if equation.primitive is not primitives.conv_general_dilated_p:
        return False
    images, kernel, params = *(variable.aval for variable in equation.invars), equation.params
    kernel_sides = [kernel.shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
    return (
        images.ndim == 4
        and len(set(kernel_sides)) == len(set(params["window_strides"])) == 1
        and {*params["lhs_dilation"], *params["rhs_dilation"]} == {1}
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and min(min(pad) for pad in params["padding"]) >= 0
        and images.dtype == kernel.dtype
        and jnp.issubdtype(images.dtype, jnp.floating)
        and params["preferred_element_type"] in (None, images.dtype)
        and params["precision"] is None
    )


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a jaxpr, as `jax.core.eval_jaxpr` does, with other convolutions."""
    values: dict[core.Var, Any] = {}

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    values |= zip(jaxpr.constvars, consts, strict=True)
    values |= zip(jaxpr.invars, arguments, strict=True)
    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        if _is_ordinary(equation):
            images, kernel = inputs
            outputs = [_convolve(images, kernel, equation.params)]
        elif equation.primitive is primitives.jit_p:
            inner = _inner(equation)
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            params = equation.primitive.get_bind_params(equation.params)
            found = equation.primitive.bind(*inputs, **params)
            outputs = found if equation.primitive.multiple_results else [found]
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _convolve(images: jax.Array, kernel: jax.Array, params: dict[str, Any]) -> jax.Array:
    numbers = params["dimension_numbers"]
    batch, channels, *sides = numbers.lhs_spec
    features, inputs, *kernel_sides = numbers.rhs_spec
    result = convolve(
        images.transpose(batch, *sides, channels),
        kernel.transpose(*kernel_sides, inputs, features),
        params["window_strides"][0],
        tuple(params["padding"]),
    )
    batch, channels, *sides = numbers.out_spec
    order = (batch, *sides, channels)
    # Axis i of the result has to become axis order[i].
    return result.transpose([order.index(axis) for axis in range(4)])
