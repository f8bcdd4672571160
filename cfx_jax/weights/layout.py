"""Published layouts of weights: which array of a file becomes which parameter of our networks.

A layout is a list of `Layer`s. From it and the shapes of our parameters follow the names and shapes
a file must have, so that every array is used or named, in both directions.

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
# Counts batches seen in training: nothing that an inference network could use.
_IGNORED = "num_batches_tracked"
# What wrappers of modules put into the names of arrays, at whichever place.
_WRAPPERS = re.compile(
    r"(?<![^./])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Of places that hold the same names, those of an optimizer are never meant, and those of an average
# are where they are asked for.
_OPTIMIZER = re.compile(r"(?<![^./])opt(_state|imizers?|imizer_states?)?[./]")
_AVERAGE = re.compile(r"(?<![^./])(\w+_)?(ema|averaged?|swa|shadow)(_\w+)?[./]")
_NAMED = 5  # of the arrays that differ


class Layer(NamedTuple):
    """One layer of our network and where its arrays are published.

    Attributes:
        path: of the layer in our parameters, for example `block_0/conv1`.
        sources: parameter of ours -> name of its array.
        to_ours: brings a published array to the axes of our parameter.
        shape: shape of our parameter -> shape of the published array.
        norm: name of the batch normalisation to fold into the layer, or "".
        epsilon: of that normalisation.
        shares: number of layers of the layout that make up this layer of ours, side by side along
            the last axis, in the order of the layout.
    """

    path: str
    sources: Mapping[str, str]
    to_ours: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[_Shape], _Shape]
    norm: str = ""
    epsilon: float = 0.0
    shares: int = 1


class Differences(NamedTuple):
    """How the arrays of a file differ from those expected; empty where they agree.

    Attributes:
        missing: names of expected arrays that the file has not.
        unexpected: names of arrays that only the file has.
        wrong: a phrase for each array of another shape, or of no floats.
    """

    missing: list[str]
    unexpected: list[str]
    wrong: list[str]


def conv(path: str, name: str, norm: str = "", epsilon: float = 1e-5, bias: bool = False) -> Layer:
    """A convolution `[out, in, k, k]`, published without bias where a normalisation follows."""
    sources = {"kernel": f"{name}.weight"}
    if bias or not norm:
        sources["bias"] = f"{name}.bias"
    return Layer(path, sources, _conv_axes, _conv_shape, norm, epsilon)


def dense(path: str, name: str) -> Layer:
    """A dense layer `[out, in]` with bias."""
    sources = {"kernel": f"{name}.weight", "bias": f"{name}.bias"}
    return Layer(path, sources, np.transpose, lambda shape: shape[::-1])


def layer_norm(path: str, name: str) -> Layer:
    """A layer normalisation with scale and bias."""
    return arrays_as_they_are(path, {"scale": f"{name}.weight", "bias": f"{name}.bias"})


def arrays_as_they_are(path: str, sources: Mapping[str, str]) -> Layer:
    """Arrays with the axes of ours."""
    return Layer(path, sources, lambda array: array, lambda shape: shape)


def published_shapes(layers: Sequence[Layer], template: Any) -> dict[str, _Shape]:
    """Computes the arrays a file of this layout holds.

    Args:
        layers: the layout.
        template: tree of our parameters, of arrays or `jax.ShapeDtypeStruct`.

    Returns:
        Published name -> shape.
    """
    ours = traverse_util.flatten_dict(template, sep="/")
    shapes: dict[str, _Shape] = {}
    for layer in layers:
        for parameter, name in layer.sources.items():
            *axes, last = ours[_join(layer.path, parameter)].shape
            shapes[name] = layer.shape((*axes, last // layer.shares))
        if layer.norm:
            features = ours[f"{layer.path}/bias"].shape
            shapes |= {f"{layer.norm}.{part}": features for part in _NORM}
    return shapes


def published_names(layers: Sequence[Layer]) -> set[str]:
    """Returns the names of the arrays a file of this layout holds; their shapes take a template."""
    names = {name for layer in layers for name in layer.sources.values()}
    return names | {f"{layer.norm}.{part}" for layer in layers if layer.norm for part in _NORM}


class Place(NamedTuple):
    """Where a network lies within what a training script saved.

    Attributes:
        found: name as published -> name in the file, of all that lies there.
        prefix: of those names in the file, without wrappers of modules.
        others: prefixes below which as much of the network lies again, such as an average.
    """

    found: dict[str, str]
    prefix: str
    others: list[str]


def find_place(names: Sequence[str], published: Container[str], number: int) -> Place:
    """Finds the place in a file below which most of the published names lie.

    Args:
        names: of the file.
        published: expected names.
        number: how many are expected.

    Returns:
        That place, of which wrappers of modules are no part; all of the file where less than half
        of what is expected, and of what is there, has an expected name.
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
    # What lies outside of the wrappers that the network lies in is beside it.
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
    """Lays published arrays out as our network expects them.

    Args:
        arrays: name -> array, without wrapper.
        layers: their layout.
        template: tree of our parameters, of arrays or `jax.ShapeDtypeStruct`.

    Returns:
        Nested dict of float32 arrays with the names and shapes of the template.

    Raises:
        ValueError: arrays are missing, left over or of another shape; the message names them.
    """
    check_arrays(arrays, published_shapes(layers, template))
    params: dict[str, np.ndarray] = {}
    for layer in layers:
        found = {ours: _floats(arrays[name]) for ours, name in layer.sources.items()}
        if layer.norm:
            found = _fold(
                found,
                {part: _floats(arrays[f"{layer.norm}.{part}"]) for part in _NORM},
                layer.epsilon,
            )
        for parameter, array in found.items():
            value = np.ascontiguousarray(layer.to_ours(array), np.float32)
            path = _join(layer.path, parameter)
            params[path] = np.append(params[path], value, axis=-1) if path in params else value
    return traverse_util.unflatten_dict(params, sep="/")


def check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, _Shape]) -> None:
    """Compares the arrays of a file with those expected.

    Raises:
        ValueError: arrays are missing, left over, of another shape or of no floats; the message
            names them.
    """
    missing, extra, wrong = compare_arrays(arrays, shapes)
    if missing or extra or wrong:
        what = describe_unsupported([*extra, *wrong])
        raise ValueError(
            f"missing arrays {some(missing)}, unexpected arrays {some(extra)}, "
            f"wrong shapes or types {some(wrong)}{what and '; '}{what}"
        )


def some(names: Sequence[str]) -> str:
    """The first of many names, for a message of one line."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{list(names[:_NAMED])}{more}"


def compare_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, _Shape]) -> Differences:
    """Returns how the arrays of a file differ from those expected; counts of batches do not."""
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
    """`kernel' = kernel s`, `bias' = beta + (bias - mean) s` with `s = gamma / sqrt(var + eps)`."""
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
