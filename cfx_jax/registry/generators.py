"""Loads generators, with their weights, by name."""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfx_jax import adapters, numerics
from cfx_jax.adapters import named
from cfx_jax.generators import (
    Generator,
    Loss,
    contextual_attention,
    gated_unet,
    heuristic,
    mix,
    vae,
)
from cfx_jax.registry import user_models
from cfx_jax.registry.names import look_up, path_of
from cfx_jax.weights import contextual_attention as contextual_attention_weights
from cfx_jax.weights import local_path, read_params, read_weights


class Network(NamedTuple):
    """A generator with parameters.

    Attributes:
        init: function of a random key that returns initial parameters.
        loss: training loss, a `cfx_jax.generators.Loss`.
        apply: function of the `Generator`, see `Generator.apply`.
        channels: number of channels of its images.
        image_size: side of the images that the network is evaluated on, in pixels.
        scalable: as in `Generator`.
    """

    init: Callable[[jax.Array], Any]
    loss: Loss
    apply: Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]
    channels: int
    image_size: int
    scalable: bool = False


@numerics.jax_config(numerics.API_CONFIG)
def load_generator(name: str, weights: str | os.PathLike[str] | None = None) -> Generator:
    """Loads a generator by name.

    Args:
        name: name of a network, `"gated_unet"`, `"gated_unet_stochastic"`,
            `"contextual_attention"`, `"contextual_attention_pytorch"`, `"vae"` or `"vae_digits"`;
            or of a heuristic, `"grey"`, `"local_mean"`, `"blur"` or `"random_color"`; or several
            names, such as `"gated_unet+blur"`, which fill in turn, see `cfx_jax.generators.mix`; or
            a user-defined function, as for `load_classifier`, see `cfx_jax.adapters.as_generator`.
        weights: path or `hf://owner/name[/file]` of the `weights.safetensors` of a training. For
            the contextual attention also a checkpoint in the published layout (.safetensors or
            .pth), trained with the original or with its PyTorch port, according to the name. None =
            the packaged weights.

    Returns:
        A `Generator` whose parameters are on the default device.

    Raises:
        ValueError: the name is unknown (the known names are listed), the network has no packaged
            weights, or the file does not contain this network.
        FileNotFoundError: the weights file does not exist.

    Example:
        >>> import cfx_jax
        >>> cfx_jax.load_generator("local_mean").name
        'local_mean'
    """
    path = path_of(weights)
    if named.is_named(name):
        adapt = functools.partial(adapters.as_generator, name=name)
        inputs = jnp.zeros((1, 64, 64, 3)), jnp.ones((1, 64, 64, 1)), jax.random.key(0)
        return user_models.build(name, path, adapt, lambda _: inputs)
    if "+" in name:
        if path is not None:
            raise ValueError(
                f"generator {name!r} names several generators, but {path} contains the weights of "
                "one: load each separately and pass them to cfx_jax.generators.mix"
            )
        return mix([load_generator(part.strip()) for part in name.split("+")])
    if name in _HEURISTICS:
        if path is not None:
            raise ValueError(f"generator {name!r} has no weights, but {path} is given")
        return Generator(params=(), apply=_HEURISTICS[name], name=name)
    network: Network = look_up("generator", NETWORKS, name, _HEURISTICS)
    template = jax.eval_shape(network.init, jax.random.key(0))
    file, digest = _packaged(name) if path is None else (local_path(path), None)
    params = _read_network(name, file, template, digest)
    return Generator(
        params=jax.device_put(params),
        apply=network.apply,
        name=name,
        scalable=network.scalable,
    )


def _packaged(name: str) -> tuple[pathlib.Path, str]:
    """Returns the path of the packaged weights, and their SHA-256."""
    if name not in _PACKAGED:
        raise ValueError(
            f"generator {name!r} has no packaged weights: train it with python -m cfx_jax.train, "
            "or pass a file (weights=PATH, on the command line --config.generator.weights=PATH)"
        )
    return pathlib.Path(__file__).parent.parent / "weights" / f"{name}.safetensors", _PACKAGED[name]


def _read_network(
    name: str, path: str | os.PathLike[str], template: Any, digest: str | None
) -> dict[str, Any]:
    """Reads a weights file of cfx_jax, or of the published layout of contextual attention."""
    if not name.startswith("contextual_attention"):
        return read_params(path, template, digest)
    arrays = read_weights(path).arrays
    # The published names contain dots, names of cfx_jax do not.
    if any("." in key for key in arrays):
        return contextual_attention_weights.params_from_arrays(arrays)
    return read_params(path, template)


_HEURISTICS: dict[str, Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "grey": heuristic.grey,
    "local_mean": heuristic.local_mean,
    "blur": heuristic.blur,
    "random_color": heuristic.random_color,
}

_GATED_UNET = Network(
    gated_unet.init, gated_unet.loss, gated_unet.apply, channels=3, image_size=224, scalable=True
)
NETWORKS = {
    "gated_unet": _GATED_UNET,
    "gated_unet_stochastic": _GATED_UNET._replace(
        init=functools.partial(gated_unet.init, stochastic=True)
    ),
    "contextual_attention": Network(
        contextual_attention.init, contextual_attention.loss, contextual_attention.apply, 3, 224
    ),
}
NETWORKS |= {
    name: Network(
        functools.partial(vae.init, architecture=architecture),
        functools.partial(vae.loss, architecture=architecture),
        functools.partial(vae.apply, architecture=architecture),
        architecture.channels,
        image_size,
    )
    for name, architecture, image_size in (
        ("vae", vae.PHOTOGRAPHS, 224),
        ("vae_digits", vae.DIGITS, 28),
    )
}
# The weights have the same layout, but the network computes like the PyTorch port; see its module.
NETWORKS["contextual_attention_pytorch"] = NETWORKS["contextual_attention"]._replace(
    apply=functools.partial(contextual_attention.apply, port=True)
)

# SHA-256 of the files in weights/.
_PACKAGED = {
    "gated_unet": "1a03e1a9e6b0792d6d50f90fe37bd0c2dcf268751f5bbfe36750fb9c3b966258",
    "vae_digits": "dfa0397855c35cc03a2d5703c517fe7821a6a2d245f7d7f7eb1e8ef085dadaad",
}
