"""Which network the arrays of a file are, and its parameters made of them."""

import logging
import re
import types
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cfx_jax.classifiers import Normalization
from cfx_jax.weights.architectures import ARCHITECTURES, Architecture, Layout, Module
from cfx_jax.weights.layout import Layer, Place, find_place, params_from_arrays, published_names
from cfx_jax.weights.preprocessing import Preprocessing
from cfx_jax.weights.unsupported import OWN


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
_MAX_NAMED = 3
_HEADS = r"fc|head|heads|classifier|last_linear|linear"  # the last layer, as people call it
_UNKNOWN = Preprocessing()
# Arguments of timm that are about training, or about what the arrays tell.
_TRAINING = {
    "attn_drop_rate", "checkpoint_path", "drop_block_rate", "drop_path_rate", "drop_rate",
    "dynamic_img_size", "fix_init", "img_size", "num_classes", "patch_drop_rate", "pos_drop_rate",
    "pretrained", "proj_drop_rate", "weight_init", "zero_init_last",
    "avg_down", "class_token", "fc_norm", "init_values", "ls_init_value", "no_embed_class",
    "reg_tokens", "stem_width",
}  # fmt: skip
_SAVE = "save the state_dict() of the model with torch.save"
_logger = logging.getLogger(__name__)


def build_network(
    name: str,
    arrays: _ARRAYS,
    opaque: Mapping[str, str] = types.MappingProxyType({}),
    preprocessing: Preprocessing = _UNKNOWN,
) -> Loaded:
    """Finds the layout of a file's arrays and turns them into parameters.

    The number of classes is that of the file. Of several layouts the one is taken whose names agree
    best. Where the arrays are found, and what is left aside beside them, is logged.

    Args:
        name: of the architecture.
        arrays: name -> array of the file, possibly within the wrapper of a training script.
        opaque: name -> class of what is there instead of arrays.
        preprocessing: what is said about the weights; they go before what the layout suggests.

    Raises:
        ValueError: arrays are missing, left over or of another shape, or the facts are those of
            another network; the message names them.
    """
    architecture = ARCHITECTURES[name]
    _check_preprocessing(name, architecture, preprocessing)
    places = []
    for layout in architecture.layouts:
        names = published_names(layout.layers(architecture.module))
        place = find_place([*arrays, *opaque], names, len(names))
        places.append((len(place.found.keys() & names), layout, place))
    _, layout, place = max(places, key=lambda found: found[0])
    place = place._replace(found=head_in_place(layout, architecture.module, place.found))
    inner = {ours: arrays[theirs] for ours, theirs in place.found.items() if theirs in arrays}
    module = as_published(architecture, layout, inner, preprocessing)
    try:
        params = params_from_arrays(inner, layout.layers(module), architecture.template(module))
    except ValueError as error:
        _name_opaque(place, opaque, published_names(layout.layers(module)))
        if not arrays and "" in opaque:
            raise ValueError(f"no tensors, but a {opaque['']}; {_SAVE}") from error
        about = _about_head(layout, module, inner)
        raise ValueError(
            f"not the weights of {name} in the layout of {layout.name}: {error}{about}"
        ) from error
    _report(name, arrays, place)
    if preprocessing.normalization is None and layout.unsaid:
        _logger.warning("%s: %s", name, layout.unsaid)
    return Loaded(module, params, preprocessing.normalization or layout.normalization)


def contradiction(preprocessing: Preprocessing, name: str) -> str:
    """Returns which of the facts about weights makes them those of another network, or ""."""
    said = preprocessing.architecture.partition(".")[0]  # the rest says what it was trained on
    architecture = ARCHITECTURES[name]
    if said and said != name and not re.fullmatch(architecture.aliases, said):
        return f"they are of {preprocessing.architecture!r}"
    known = {**architecture.arguments, "in_chans": (architecture.channels,)}
    for argument, value in preprocessing.arguments.items():
        if argument not in _TRAINING and value not in known.get(argument, ()):
            return f"their network has {argument} {value!r}"
    return ""


def _check_preprocessing(
    name: str, architecture: Architecture, preprocessing: Preprocessing
) -> None:
    if said := contradiction(preprocessing, name):
        raise ValueError(
            f"config.json beside the weights says that {said}, which is not {name}, even where "
            "arrays have the same names; if that file is about other weights, take them apart; "
            f"for that network {OWN}"
        )
    if preprocessing.normalization and len(preprocessing.normalization.mean) not in (
        1,
        architecture.channels,
    ):
        raise ValueError(
            f"a normalization of {len(preprocessing.normalization.mean)} channels, and images "
            f"of {name} have {architecture.channels}; correct the file next to the weights, "
            "or give another normalization"
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


def _report(name: str, arrays: _ARRAYS, place: Place) -> None:
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
        first = ", ".join(aside[:_MAX_NAMED])
        more = ", ..." if len(aside) > _MAX_NAMED else ""
        _logger.warning("%d arrays beside %s are left aside: %s%s", len(aside), name, first, more)


def as_published(
    architecture: Architecture,
    layout: Layout,
    arrays: _ARRAYS,
    preprocessing: Preprocessing = _UNKNOWN,
) -> Module:
    """Returns the variant of a network that a layout's arrays are of.

    Its fields are those of the layout; those that the names of the arrays tell, or their shapes, or
    the facts; and the number of classes of the head, where that is there.
    """
    module = architecture.module.clone(**layout.fields)
    for fields in architecture.variants:
        variant = module.clone(**fields)
        if _differing(layout, variant, arrays) < _differing(layout, module, arrays):
            module = variant
    layers = layout.layers(module)
    ours = {
        f"{layer.path}/{parameter}".lstrip("/"): layer.to_ours(arrays[name])
        for layer in layers
        for parameter, name in layer.sources.items()
        if name in arrays
    }
    head = arrays.get(layers[-1].sources["bias"])
    if head is not None and head.ndim == 1:
        module = module.clone(num_classes=len(head))
    return architecture.measure(module, ours, preprocessing.arguments)


def _differing(layout: Layout, module: Module, arrays: _ARRAYS) -> int:
    return len(published_names(layout.layers(module)) ^ arrays.keys())


def head_in_place(layout: Layout, module: Module, found: Mapping[str, str]) -> dict[str, str]:
    """Renames a dense head that stands elsewhere than as published, such as behind a dropout.

    Args:
        layout: that the names are of.
        module: the network.
        found: name as published -> name in the file.

    Returns:
        The same, with the head in its place: the only dense layer under one of the usual names of a
        head, maybe with a number behind it, that is no other layer of the network.
    """
    layers = layout.layers(module)
    sources = layers[-1].sources
    heads = _heads(layers, found)
    if sources["kernel"] in found or len(heads) != 1:
        return dict(found)
    theirs, _, _ = heads[0].rpartition(".")
    renamed = {heads[0]: sources["kernel"], f"{theirs}.bias": sources["bias"]}
    return {renamed.get(name, name): place for name, place in found.items()}


def _heads(layers: Sequence[Layer], names: Iterable[str]) -> list[str]:
    """Names of the kernels that look like those of a head, and are of no layer."""
    expected = published_names(layers)
    stem, _, kernel = layers[-1].sources["kernel"].rpartition(".")
    usual = re.compile(rf"({re.escape(stem)}|{_HEADS})(\.\d+)?\.{kernel}")
    return [name for name in names if name not in expected and usual.fullmatch(name)]


def _about_head(layout: Layout, module: Module, arrays: _ARRAYS) -> str:
    """Tells that the head is what is missing, where nothing else is, or ""."""
    layers = layout.layers(module)
    head = set(layers[-1].sources.values())
    if not head >= {name for name in published_names(layers) if name not in arrays} > set():
        return ""
    if heads := _heads(layers, arrays):
        return f"; this looks like a head of several layers ({', '.join(heads)}): {OWN}"
    return (
        f"; there is no head ({layers[-1].sources['kernel']}): give weights that were trained to "
        f"classify, or {OWN}"
    )
