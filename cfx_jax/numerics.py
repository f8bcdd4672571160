"""Settings of JAX that change results or end programs, and the values that the package uses."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

_P = ParamSpec("_P")
_R = TypeVar("_R")

API_CONFIG: dict[str, Any] = {
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    # Masks that only pad a batch repeat the keys of other masks.
    "jax_debug_key_reuse": False,
    # Forbidden pixels have an infinite price.
    "jax_debug_infs": False,
}
"""Values under which all public functions compute, by the name of the setting."""

# Runs compile programs ahead of their first call.
RUN_CONFIG = API_CONFIG | {"jax_disable_jit": False}
"""Values under which runs over whole datasets compute."""

COMMAND_CONFIG = RUN_CONFIG | {"jax_enable_x64": False}
"""Values under which commands compute; in Python, models may be float64."""


def jax_config(settings: dict[str, Any]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Makes a function compute under given settings of JAX, which are restored afterwards.

    Outside of a trace, the function runs without any mesh of `Explicit` axes, and arrays sharded
    over such axes are treated as sharded over `Auto` axes; no array is moved.

    Args:
        settings: values by the name of the setting, such as `API_CONFIG`.

    Returns:
        A decorator.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with contextlib.ExitStack() as stack:
                # NumPy arguments are moved to the device.
                stack.enter_context(jax.transfer_guard("allow"))
                for name, value in settings.items():
                    stack.enter_context(getattr(jax, name.removeprefix("jax_"))(value))
                given: Any = (args, kwargs)
                leaves = jax.tree.leaves(given)
                if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
                        stack.enter_context(jax.set_mesh(Mesh(np.empty((), object), ())))
                    if any(map(_is_explicit, leaves)):
                        given = jax.tree.map(_make_automatic, given)
                return function(*given[0], **given[1])

        return call

    return decorate


def _is_explicit(leaf: Any) -> bool:
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
    return isinstance(sharding, NamedSharding) and AxisType.Explicit in sharding.mesh.axis_types


def _make_automatic(leaf: Any) -> Any:
    if not _is_explicit(leaf):
        return leaf
    mesh = leaf.sharding.mesh
    automatic = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
    return jax.device_put(leaf, NamedSharding(automatic, leaf.sharding.spec))
