"""Lists the content of a weights file, and finds the closest known network."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cfx_jax.weights.architectures import ARCHITECTURES, PublishedLayout
from cfx_jax.weights.files import read_weights
from cfx_jax.weights.fitting import contradiction, rename_head, select_variant
from cfx_jax.weights.layout import (
    Differences,
    Place,
    compare_arrays,
    find_place,
    published_names,
    published_shapes,
)
from cfx_jax.weights.preprocessing import Preprocessing
from cfx_jax.weights.unsupported import USE_OWN_MODEL, describe_unsupported

_MAX_LISTED = 5  # Number of listed arrays of each kind of difference.


class Match(NamedTuple):
    """The comparison of a file with one layout of one architecture.

    Attributes:
        architecture: name of the architecture.
        layout: name of the layout.
        num_classes: number of classes of the head of the file; without a head, the published
            number.
        num_arrays: number of arrays of the layout.
        differences: differences between the file and the layout.
        ignored: names of arrays in the file that do not belong to the network.
        place: place of the network in the file.
    """

    architecture: str
    layout: str
    num_classes: int
    num_arrays: int
    differences: Differences
    ignored: list[str]
    place: Place

    @property
    def num_agreeing(self) -> int:
        """Number of arrays of the layout that the file contains with the same shape."""
        return self.num_arrays - len(self.differences.missing) - len(self.differences.wrong)


def describe(path: str | os.PathLike[str]) -> str:
    """Describes the arrays of a file, the closest classifier and how to load it.

    Args:
        path: path or address of the weights, as in `read_weights`.

    Returns:
        Several lines of text.

    Raises:
        ValueError: the format is unknown or the file is damaged.
        OSError: the file cannot be read or downloaded.
    """
    arrays, opaque, preprocessing = read_weights(path)
    objects = [f"{name or 'the whole file'} ({kind})" for name, kind in opaque.items()]
    lines = [*_table(arrays), *_list_names("objects, which are not read", objects), ""]
    matches = find_closest(arrays)
    return "\n".join([*lines, *_describe_matches(matches, os.fspath(path), preprocessing)])


def find_closest(arrays: Mapping[str, np.ndarray]) -> list[Match]:
    """Finds the layouts that are closest to the arrays, for any number of classes.

    Args:
        arrays: arrays of a file by name, possibly within the wrapper of a training script.

    Returns:
        All layouts in which every array agrees, or else the layout with the most agreeing arrays;
        empty if no name is known.
    """
    candidates = [
        (_overlap(arrays, published_names(layout.layers(architecture.module))), name, layout)
        for name, architecture in ARCHITECTURES.items()
        for layout in architecture.layouts
    ]
    best = max(overlap for overlap, _, _ in candidates)
    if best == 0.0:
        return []
    # Names alone distinguish most networks; comparing shapes requires a trace of the network.
    matches = [_match(name, layout, arrays) for score, name, layout in candidates if score == best]
    exact = [match for match in matches if not any(match.differences)]
    return exact or [max(matches, key=lambda match: match.num_agreeing)]


def _overlap(arrays: Mapping[str, np.ndarray], names: set[str]) -> float:
    inner = find_place(list(arrays), names, len(names)).found.keys()
    return len(inner & names) / len(inner | names)


def _match(name: str, layout: PublishedLayout, arrays: Mapping[str, np.ndarray]) -> Match:
    architecture = ARCHITECTURES[name]
    names = published_names(layout.layers(architecture.module))
    place = find_place(list(arrays), names, len(names))
    place = place._replace(found=rename_head(layout, architecture.module, place.found))
    inner = {published: arrays[key] for published, key in place.found.items()}
    module = select_variant(architecture, layout, inner)
    shapes = published_shapes(layout.layers(module), architecture.template(module))
    differences = compare_arrays(inner, shapes)
    used = set(place.found.values())
    ignored = [key for key in arrays if key not in used]
    return Match(name, layout.name, module.num_classes, len(shapes), differences, ignored, place)


def _table(arrays: Mapping[str, np.ndarray]) -> list[str]:
    rows = [("name", "shape", "dtype")]
    rows += [(_printable(name), str(a.shape), str(a.dtype)) for name, a in arrays.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:{widths[0]}}  {shape:{widths[1]}}  {dtype}" for name, shape, dtype in rows]
    parameters = sum(array.size for array in arrays.values())
    num_bytes = sum(array.nbytes for array in arrays.values())
    return [*lines, f"{len(arrays)} arrays, {parameters:,} parameters, {num_bytes:,} bytes"]


def _describe_matches(
    matches: Sequence[Match], path: str, preprocessing: Preprocessing
) -> list[str]:
    if not matches:
        known = ", ".join(ARCHITECTURES)
        return [f"matches none of the known classifiers: {known}", f"  {USE_OWN_MODEL}"]
    match = matches[0]
    if any(match.differences):
        what = describe_unsupported([*match.differences.unexpected, *match.differences.wrong])
        return [
            f"closest is {match.architecture} in the layout of {match.layout}: "
            f"{match.num_agreeing} of its {match.num_arrays} arrays agree",
            *_list_names("missing in the file", match.differences.missing),
            *_list_names("only in the file", match.differences.unexpected),
            *_list_names("of another shape or type", match.differences.wrong),
            *([f"  {what}"] if what else []),
        ]
    lines = [
        f"matches {match.architecture} in the layout of {match.layout}, {match.num_classes} classes"
        for match in matches
    ]
    places = [prefix.rstrip("./") for prefix in (match.place.prefix, *match.place.others)]
    lines += [f"  below {' and '.join(map(_printable, places))}"] if any(places) else []
    lines += _list_names("not part of the network", match.ignored)
    paths = [path, *(f"{path}#{place}" for place in places[1:])]
    for name in dict.fromkeys(match.architecture for match in matches):
        if reason := contradiction(preprocessing, name):
            lines.append(f"  but according to config.json next to it, {reason}")
        else:
            lines += [f"    cfx_jax.load_classifier({name!r}, {path!r})" for path in paths]
    return lines


def _list_names(kind: str, arrays: Sequence[str]) -> list[str]:
    if not arrays:
        return []
    more = f", and {len(arrays) - _MAX_LISTED} more" if len(arrays) > _MAX_LISTED else ""
    return [f"  {len(arrays)} {kind}: {', '.join(map(_printable, arrays[:_MAX_LISTED]))}{more}"]


def _printable(name: str) -> str:
    """Returns a name with control characters escaped, so that it cannot affect the terminal."""
    return name if name.isprintable() else ascii(name)
