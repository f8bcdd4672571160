"""Published layouts of weights, which map arrays in a file to parameters of a network.

A layout is a list of `Layer`s. With the shapes of the parameters, it determines the names and
shapes of the arrays in a file, so that missing and unexpected arrays are both reported.

    layers = [conv("conv1", "conv1", norm="bn1"), dense("classifier", "fc")]
    params = params_from_arrays(arrays, layers, template)
"""

import collections
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cfx_jax.weights.unsupported import describe_unsupported

_Shape = tuple[int, ...]
_NORM = ("weight", "bias", "running_mean", "running_var")
# Array that counts the batches of the training, which inference does not need.
_IGNORED = "num_batches_tracked"
# Parts of array names that wrappers of modules add, at any position.
_WRAPPERS = re.compile(
    r"(?<![^./])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# If several places have the same names, the state of an optimizer is never used, and a weight
# average only on request.
_OPTIMIZER = re.compile(r"(?<![^./])opt(_state|imizers?|imizer_states?)?[./]")
_AVERAGE = re.compile(r"(?<![^./])(\w+_)?(ema|averaged?|swa|shadow)(_\w+)?[./]")
_MAX_SHOWN = 5  # Number of differing arrays in an error message.


class Layer(NamedTuple):
    """A layer of a network and its published arrays.

    Attributes:
        path: path of the layer in the parameters of the network, for example `block_0/conv1`.
        sources: name of the published array for each parameter of the layer.
        to_param: function that converts a published array to the axes of the parameter.
        shape: function that maps the shape of the parameter to the shape of the published array.
        norm: name of the batch normalisation to fold into the layer, or "".
        epsilon: constant that this normalisation adds to the variance.
        shares: number of published layers that are concatenated to this layer along the last axis,
            in the order of the layout.
    """

    path: str
    sources: Mapping[str, str]
    to_param: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[_Shape], _Shape]
    norm: str = ""
    epsilon: float = 0.0
    shares: int = 1


class Differences(NamedTuple):
    """Differences between the arrays of a file and the expected arrays; empty if they agree.

    Attributes:
        missing: names of expected arrays that the file does not contain.
        unexpected: names of arrays that are only in the file.
        wrong: descriptions of the arrays with another shape, or with a type that is not floating.
    """

    missing: list[str]
    unexpected: list[str]
    wrong: list[str]


def conv(path: str, name: str, norm: str = "", epsilon: float = 1e-5, bias: bool = False) -> Layer:
    """Describes a convolution `[out, in, k, k]`, without bias if a normalisation follows."""
    sources = {"kernel": f"{name}.weight"}
    if bias or not norm:
        sources["bias"] = f"{name}.bias"
    return Layer(path, sources, _conv_axes, _conv_shape, norm, epsilon)


def dense(path: str, name: str) -> Layer:
    """Describes a dense layer `[out, in]` with bias."""
    sources = {"kernel": f"{name}.weight", "bias": f"{name}.bias"}
    return Layer(path, sources, np.transpose, lambda shape: shape[::-1])


def layer_norm(path: str, name: str) -> Layer:
    """Describes a layer normalisation with scale and bias."""
    return unchanged(path, {"scale": f"{name}.weight", "bias": f"{name}.bias"})


def unchanged(path: str, sources: Mapping[str, str]) -> Layer:
    """Describes a layer whose arrays are published with the axes of its parameters."""
    return Layer(path, sources, lambda array: array, lambda shape: shape)


def published_shapes(layers: Sequence[Layer], template: Any) -> dict[str, _Shape]:
    """Computes the names and shapes of the arrays in a file of this layout.

    Args:
        layers: the layout.
        template: tree of the parameters, of arrays or `jax.ShapeDtypeStruct`.

    Returns:
        Shapes by published name.
    """
    params = traverse_util.flatten_dict(template, sep="/")
    shapes: dict[str, _Shape] = {}
    for layer in layers:
        for parameter, name in layer.sources.items():
            *axes, last = params[_join(layer.path, parameter)].shape
            shapes[name] = layer.shape((*axes, last // layer.shares))
        if layer.norm:
            features = params[f"{layer.path}/bias"].shape
            shapes |= {f"{layer.norm}.{part}": features for part in _NORM}
    return shapes


def published_names(layers: Sequence[Layer]) -> set[str]:
    """Returns the names of the arrays in a file of this layout."""
    names = {name for layer in layers for name in layer.sources.values()}
    return names | {f"{layer.norm}.{part}" for layer in layers if layer.norm for part in _NORM}


class Place(NamedTuple):
    """The place of a network in a file that a training script saved.

    Attributes:
        found: names in the file, by published name, of all arrays at this place.
        prefix: common prefix of these names in the file, without wrappers of modules.
        others: prefixes of further places with the same number of arrays, such as a weight average.
    """

    found: dict[str, str]
    prefix: str
    others: list[str]


def find_place(names: Sequence[str], published: Container[str], number: int) -> Place:
    """Finds the place in a file with the most published names.

    Args:
        names: names of the arrays in the file.
        published: expected names.
        number: number of expected names.

    Returns:
        The place, without wrappers of modules. It is the whole file if less than half of the
        expected or of the present arrays, whichever are fewer, have an expected name.
    """
    plain = {_WRAPPERS.sub("", name): name for name in names}
    if len(plain) < len(names):
        plain = {name: name for name in names}
    counts: collections.Counter[str] = collections.Counter()
    for name in plain:
        starts = (0, *(match.end() for match in re.finditer("[./]", name)))
        counts.update(name[:start] for start in starts if name[start:] in published)
    most = max(counts.values(), default=0)
    places = [prefix for prefix, count in counts.items() if count == most]
    places.sort(key=lambda prefix: (bool(_OPTIMIZER.search(prefix)), _is_average(prefix)))
    if 2 * most < min(number, len(names)):
        places = [""]
    prefix, *others = places or [""]
    found = {n.removeprefix(prefix): name for n, name in plain.items() if n.startswith(prefix)}
    # Arrays outside of the wrappers of the network do not belong to it.
    wraps = collections.Counter(
        name.removesuffix(n) for n, name in found.items() if n in published and name.endswith(n)
    )
    wrap = max(wraps, key=wraps.__getitem__, default="")
    found = {n: name for n, name in found.items() if n in published or name.startswith(wrap)}
    return Place(found, prefix, [other for other in others if not _OPTIMIZER.search(other)])


def _is_average(prefix: str) -> bool:
    return bool(_AVERAGE.search(prefix))


def params_from_arrays(
    arrays: Mapping[str, np.ndarray], layers: Sequence[Layer], template: Any
) -> dict[str, Any]:
    """Converts published arrays to the parameters of a network.

    Args:
        arrays: arrays by name, without wrappers.
        layers: layout of the arrays.
        template: tree of the parameters, of arrays or `jax.ShapeDtypeStruct`.

    Returns:
        Nested dict of float32 arrays with the names and shapes of the template.

    Raises:
        ValueError: arrays are missing, unexpected or of another shape; the message names them.
    """
    check_arrays(arrays, published_shapes(layers, template))
    params: dict[str, np.ndarray] = {}
    for layer in layers:
        values = {part: _floats(arrays[name]) for part, name in layer.sources.items()}
        if layer.norm:
            values = _fold(
                values,
                {part: _floats(arrays[f"{layer.norm}.{part}"]) for part in _NORM},
                layer.epsilon,
            )
        for parameter, array in values.items():
            value = np.ascontiguousarray(layer.to_param(array), np.float32)
            path = _join(layer.path, parameter)
            params[path] = np.append(params[path], value, axis=-1) if path in params else value
    return traverse_util.unflatten_dict(params, sep="/")


def check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, _Shape]) -> None:
    """Compares the arrays of a file with the expected arrays.

    Raises:
        ValueError: arrays are missing, unexpected, of another shape or not floating; the message
            names them.
    """
    missing, extra, wrong = compare_arrays(arrays, shapes)
    if missing or extra or wrong:
        hint = describe_unsupported([*extra, *wrong])
        raise ValueError(
            f"missing arrays {abbreviate(missing)}, unexpected arrays {abbreviate(extra)}, "
            f"wrong shapes or types {abbreviate(wrong)}{hint and '; '}{hint}"
        )


def abbreviate(names: Sequence[str]) -> str:
    """Returns the first names of a list as text, for a message of one line."""
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"{list(names[:_MAX_SHOWN])}{more}"


def compare_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, _Shape]) -> Differences:
    """Compares the arrays of a file with the expected shapes; ignores `num_batches_tracked`."""
    named = {name for name in arrays if not name.endswith(_IGNORED)}
    wrong = [
        f"{name} {arrays[name].shape} instead of {shape}"
        for name, shape in sorted(shapes.items())
        if name in named and arrays[name].shape != shape
    ]
    wrong += [
        f"{name} of {arrays[name].dtype} instead of floats"
        for name, shape in sorted(shapes.items())
        if name in named
        and arrays[name].shape == shape
        and not jnp.issubdtype(arrays[name].dtype, jnp.floating)
    ]
    return Differences(sorted(shapes.keys() - named), sorted(named - shapes.keys()), wrong)


def _fold(
    layer: dict[str, np.ndarray], norm: dict[str, np.ndarray], epsilon: float
) -> dict[str, np.ndarray]:
    """Folds a batch normalisation into the layer before it.

    Formula: `kernel' = kernel s`, `bias' = beta + (bias - mean) s`, `s = gamma / sqrt(var + eps)`.
    """
    scale = norm["weight"] / np.sqrt(norm["running_var"] + epsilon)
    return {
        "kernel": layer["kernel"] * scale.reshape(-1, 1, 1, 1),
        "bias": norm["bias"] + (layer.get("bias", 0.0) - norm["running_mean"]) * scale,
    }


def _floats(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def _conv_axes(array: np.ndarray) -> np.ndarray:
    return np.transpose(array, (2, 3, 1, 0)) if array.ndim == 4 else array


def _conv_shape(shape: _Shape) -> _Shape:
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape


def _join(path: str, parameter: str) -> str:
    return f"{path}/{parameter}" if path else parameter
