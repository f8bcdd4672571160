"""Finds the network that fits the arrays of a file, and converts the arrays to its parameters."""

import logging
import re
import types
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cfx_jax.classifiers import Normalization
from cfx_jax.weights.architectures import ARCHITECTURES, Architecture, Module, PublishedLayout
from cfx_jax.weights.layout import Layer, Place, find_place, params_from_arrays, published_names
from cfx_jax.weights.preprocessing import Preprocessing
from cfx_jax.weights.unsupported import USE_OWN_MODEL


class Loaded(NamedTuple):
    """A network with weights.

    Attributes:
        module: Flax module with the number of classes of the file.
        params: parameters of the module.
        normalization: normalisation of the images.
    """

    module: Module
    params: dict[str, Any]
    normalization: Normalization


_Arrays = Mapping[str, np.ndarray]
_MAX_LOGGED = 3
_HEADS = r"fc|head|heads|classifier|last_linear|linear"  # Common names of the last layer.
_NO_PREPROCESSING = Preprocessing()
# Arguments of timm that concern training, or that follow from the arrays.
_IRRELEVANT_ARGUMENTS = {
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
    arrays: _Arrays,
    opaque: Mapping[str, str] = types.MappingProxyType({}),
    preprocessing: Preprocessing = _NO_PREPROCESSING,
) -> Loaded:
    """Finds the layout of the arrays of a file and converts them to parameters.

    The file determines the number of classes. Of several layouts, the layout with the most matching
    names is used. The prefix of the arrays in the file and the ignored arrays are logged.

    Args:
        name: name of the architecture.
        arrays: arrays of the file by name, possibly within the wrapper of a training script.
        opaque: Python class of each object in the file that is not a plain array, by name.
        preprocessing: known properties of the weights; they override properties of the layout.

    Returns:
        The network with its weights.

    Raises:
        ValueError: arrays are missing, unexpected or of another shape, or the properties belong to
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
    place = place._replace(found=rename_head(layout, architecture.module, place.found))
    inner = {name: arrays[key] for name, key in place.found.items() if key in arrays}
    module = select_variant(architecture, layout, inner, preprocessing)
    # An error of JAX is not a fault of the file, so it is raised outside of `try`.
    template = architecture.template(module)
    try:
        params = params_from_arrays(inner, layout.layers(module), template)
    except ValueError as error:
        _check_opaque(place, opaque, published_names(layout.layers(module)))
        if not arrays and "" in opaque:
            raise ValueError(f"no tensors, but a {opaque['']}; {_SAVE}") from error
        hint = _describe_missing_head(layout, module, inner)
        raise ValueError(
            f"not the weights of {name} in the layout of {layout.name}: {error}{hint}"
        ) from error
    problem = architecture.find_ambiguity(
        module, params, _arguments(preprocessing), architecture.image_size
    )
    if problem:
        raise ValueError(f"{name}: {problem}")
    _log_place(name, arrays, place)
    if preprocessing.normalization is None and layout.assumption:
        _logger.warning("%s: %s", name, layout.assumption)
    return Loaded(module, params, preprocessing.normalization or layout.normalization)


def contradiction(preprocessing: Preprocessing, name: str) -> str:
    """Returns a property of the weights that contradicts the network, as text, or ""."""
    timm_name = preprocessing.architecture.partition(".")[0]  # The rest is the training data.
    architecture = ARCHITECTURES[name]
    if timm_name and timm_name != name and not re.fullmatch(architecture.aliases, timm_name):
        return f"they are of {preprocessing.architecture!r}"
    known = {**architecture.arguments, "in_chans": (architecture.channels,)}
    for argument, value in preprocessing.arguments.items():
        if argument not in _IRRELEVANT_ARGUMENTS and value not in known.get(argument, ()):
            return f"their network has {argument} {value!r}"
    return ""


def _check_preprocessing(
    name: str, architecture: Architecture, preprocessing: Preprocessing
) -> None:
    if reason := contradiction(preprocessing, name):
        raise ValueError(
            f"according to config.json next to the weights, {reason}, which is not {name}, even if "
            "arrays have the same names; if that file belongs to other weights, move it elsewhere; "
            f"for that network {USE_OWN_MODEL}"
        )
    if preprocessing.normalization and len(preprocessing.normalization.mean) not in (
        1,
        architecture.channels,
    ):
        raise ValueError(
            f"a normalization of {len(preprocessing.normalization.mean)} channels, and images "
            f"of {name} have {architecture.channels}; correct the file next to the weights, "
            "or pass another normalization"
        )


def _check_opaque(place: Place, opaque: Mapping[str, str], names: Container[str]) -> None:
    """Raises if the file has an unsupported object in place of an expected array."""
    for name, key in place.found.items():
        if key in opaque and name in names:
            if opaque[key].startswith("tensor of"):
                raise ValueError(
                    f"{key} is a {opaque[key]}, a type that is not read; save the "
                    "state_dict() of model.float()"
                )
            raise ValueError(
                f"{key} is a {opaque[key]}, expected a tensor: only plain tensors are read from a "
                f"file; {_SAVE}"
            )


def _log_place(name: str, arrays: _Arrays, place: Place) -> None:
    """Logs the place of the network, further places with the same network, and ignored arrays."""
    published, key = next(iter(place.found.items()))
    if published != key:
        _logger.info("arrays of %s: %s is read as %s, and so on", name, key, published)
    if place.others:
        used, *others = (prefix.rstrip("./") for prefix in (place.prefix, *place.others))
        _logger.warning(
            "the file contains the weights of %s %d times: using those below %r; for others (%s) "
            "append their place to the path, as in FILE#%s",
            name,
            1 + len(others),
            used,
            ", ".join(others),
            others[0],
        )
    used_names = set(place.found.values())
    ignored = [n for n in arrays if n not in used_names and not n.startswith(tuple(place.others))]
    if ignored:
        first = ", ".join(ignored[:_MAX_LOGGED])
        more = ", ..." if len(ignored) > _MAX_LOGGED else ""
        _logger.warning("%s: ignoring %d other arrays: %s%s", name, len(ignored), first, more)


def select_variant(
    architecture: Architecture,
    layout: PublishedLayout,
    arrays: _Arrays,
    preprocessing: Preprocessing = _NO_PREPROCESSING,
) -> Module:
    """Returns the variant of a network that the arrays of a layout belong to.

    Its fields follow from the layout, the names and shapes of the arrays and the known properties.
    The number of classes is that of the head, if the arrays contain a head.
    """
    module = architecture.module.clone(**layout.fields)
    for fields in architecture.variants:
        variant = module.clone(**fields)
        if _count_differing(layout, variant, arrays) < _count_differing(layout, module, arrays):
            module = variant
    layers = layout.layers(module)
    params = {
        f"{layer.path}/{parameter}".lstrip("/"): layer.to_param(arrays[name])
        for layer in layers
        for parameter, name in layer.sources.items()
        if name in arrays
    }
    head = arrays.get(layers[-1].sources["bias"])
    if head is not None and head.ndim == 1:
        module = module.clone(num_classes=len(head))
    return architecture.infer_fields(module, params, _arguments(preprocessing))


def _arguments(preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns the arguments of timm, with the image size if it is known."""
    return {"img_size": preprocessing.image_size, **preprocessing.arguments}


def _count_differing(layout: PublishedLayout, module: Module, arrays: _Arrays) -> int:
    return len(published_names(layout.layers(module)) ^ arrays.keys())


def rename_head(
    layout: PublishedLayout, module: Module, found: Mapping[str, str]
) -> dict[str, str]:
    """Renames a dense head with an unpublished name, for example after a dropout layer.

    Args:
        layout: layout that defines the published names.
        module: network without weights.
        found: names in the file by published name.

    Returns:
        The same names, with the published name for the head. The head is the only dense layer that
        has a common name of a head, possibly followed by a number, and is not another layer.
    """
    layers = layout.layers(module)
    sources = layers[-1].sources
    heads = _heads(layers, found)
    if sources["kernel"] in found or len(heads) != 1:
        return dict(found)
    head, _, _ = heads[0].rpartition(".")
    renamed = {heads[0]: sources["kernel"], f"{head}.bias": sources["bias"]}
    return {renamed.get(name, name): key for name, key in found.items()}


def _heads(layers: Sequence[Layer], names: Iterable[str]) -> list[str]:
    """Returns the names of kernels that look like a head and belong to no layer."""
    expected = published_names(layers)
    stem, _, kernel = layers[-1].sources["kernel"].rpartition(".")
    pattern = re.compile(rf"({re.escape(stem)}|{_HEADS})(\.\d+)?\.{kernel}")
    return [name for name in names if name not in expected and pattern.fullmatch(name)]


def _describe_missing_head(layout: PublishedLayout, module: Module, arrays: _Arrays) -> str:
    """Returns a hint that only the head is missing, or ""."""
    layers = layout.layers(module)
    head = set(layers[-1].sources.values())
    if not head >= {name for name in published_names(layers) if name not in arrays} > set():
        return ""
    if heads := _heads(layers, arrays):
        return f"; this seems to be a head of several layers ({', '.join(heads)}): {USE_OWN_MODEL}"
    return (
        f"; there is no head ({layers[-1].sources['kernel']}): use weights that were trained to "
        f"classify, or {USE_OWN_MODEL}"
    )
