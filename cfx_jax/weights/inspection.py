"""What a weights file holds, and which of the known networks it looks like."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cfx_jax.weights.architectures import ARCHITECTURES, Layout
from cfx_jax.weights.files import read_weights
from cfx_jax.weights.fitting import as_published, contradiction, head_in_place
from cfx_jax.weights.layout import (
    Differences,
    Place,
    compare_arrays,
    find_place,
    published_names,
    published_shapes,
)
from cfx_jax.weights.preprocessing import Preprocessing
from cfx_jax.weights.unsupported import OWN, describe_unsupported

_NAMED = 5  # arrays that differ, of each kind


class Match(NamedTuple):
    """How a file compares with one layout of one architecture.

    Attributes:
        architecture: its name.
        layout: its name.
        num_classes: of the file's head, or the published number where there is none.
        num_arrays: of the layout.
        differences: between the file and the layout.
        aside: names of the file's arrays that lie beside the network.
        place: where the network lies in the file.
    """

    architecture: str
    layout: str
    num_classes: int
    num_arrays: int
    differences: Differences
    aside: list[str]
    place: Place

    @property
    def num_agreeing(self) -> int:
        """Arrays of the layout that the file has in the same shape."""
        return self.num_arrays - len(self.differences.missing) - len(self.differences.wrong)


def describe(path: str | os.PathLike[str]) -> str:
    """Lists the arrays of a file and says which classifier they look like and how to load it.

    Args:
        path: as `read_weights` takes it.

    Returns:
        Several lines of text.

    Raises:
        ValueError: the format is unknown or the file is damaged.
        OSError: it cannot be read or fetched.
    """
    arrays, opaque, preprocessing = read_weights(path)
    objects = [f"{name or 'all of it'} ({kind})" for name, kind in opaque.items()]
    lines = [*_table(arrays), *_differing("objects, which are not read", objects), ""]
    return "\n".join([*lines, *_guess(closest(arrays), os.fspath(path), preprocessing)])


def closest(arrays: Mapping[str, np.ndarray]) -> list[Match]:
    """Finds the layouts that arrays come closest to, with any number of classes.

    Args:
        arrays: of a file, possibly within the wrapper of a training script.

    Returns:
        All that agree in every array, or the one that agrees in most; none where no name is known.
    """
    candidates = [
        (_overlap(arrays, published_names(layout.layers(architecture.module))), name, layout)
        for name, architecture in ARCHITECTURES.items()
        for layout in architecture.layouts
    ]
    best = max(overlap for overlap, _, _ in candidates)
    if best == 0.0:
        return []
    # Names alone tell most networks apart, and shapes take a trace of the network.
    matches = [_match(name, layout, arrays) for found, name, layout in candidates if found == best]
    exact = [match for match in matches if not any(match.differences)]
    return exact or [max(matches, key=lambda match: match.num_agreeing)]


def _overlap(arrays: Mapping[str, np.ndarray], names: set[str]) -> float:
    inner = find_place(list(arrays), names, len(names)).found.keys()
    return len(inner & names) / len(inner | names)


def _match(name: str, layout: Layout, arrays: Mapping[str, np.ndarray]) -> Match:
    architecture = ARCHITECTURES[name]
    names = published_names(layout.layers(architecture.module))
    place = find_place(list(arrays), names, len(names))
    place = place._replace(found=head_in_place(layout, architecture.module, place.found))
    inner = {ours: arrays[theirs] for ours, theirs in place.found.items()}
    module = as_published(architecture, layout, inner)
    shapes = published_shapes(layout.layers(module), architecture.template(module))
    differences = compare_arrays(inner, shapes)
    used = set(place.found.values())
    aside = [theirs for theirs in arrays if theirs not in used]
    return Match(name, layout.name, module.num_classes, len(shapes), differences, aside, place)


def _table(arrays: Mapping[str, np.ndarray]) -> list[str]:
    rows = [("name", "shape", "dtype")]
    rows += [(_printable(name), str(a.shape), str(a.dtype)) for name, a in arrays.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:{widths[0]}}  {shape:{widths[1]}}  {dtype}" for name, shape, dtype in rows]
    parameters = sum(array.size for array in arrays.values())
    num_bytes = sum(array.nbytes for array in arrays.values())
    return [*lines, f"{len(arrays)} arrays, {parameters:,} parameters, {num_bytes:,} bytes"]


def _guess(matches: Sequence[Match], path: str, preprocessing: Preprocessing) -> list[str]:
    if not matches:
        return [f"looks like none of the known classifiers: {', '.join(ARCHITECTURES)}", f"  {OWN}"]
    match = matches[0]
    if any(match.differences):
        what = describe_unsupported([*match.differences.unexpected, *match.differences.wrong])
        return [
            f"nearest is {match.architecture} in the layout of {match.layout}: "
            f"{match.num_agreeing} of its {match.num_arrays} arrays agree",
            *_differing("missing in the file", match.differences.missing),
            *_differing("only in the file", match.differences.unexpected),
            *_differing("of another shape or type", match.differences.wrong),
            *([f"  {what}"] if what else []),
        ]
    lines = [
        f"looks like {match.architecture} in the layout of {match.layout}, "
        f"{match.num_classes} classes"
        for match in matches
    ]
    places = [prefix.rstrip("./") for prefix in (match.place.prefix, *match.place.others)]
    lines += [f"  below {' and '.join(map(_printable, places))}"] if any(places) else []
    lines += _differing("beside the network", match.aside)
    paths = [path, *(f"{path}#{place}" for place in places[1:])]
    for name in dict.fromkeys(match.architecture for match in matches):
        if said := contradiction(preprocessing, name):
            lines.append(f"  but config.json beside it says that {said}")
        else:
            lines += [f"    cfx_jax.load_classifier({name!r}, {path!r})" for path in paths]
    return lines


def _differing(kind: str, arrays: Sequence[str]) -> list[str]:
    if not arrays:
        return []
    more = f", and {len(arrays) - _NAMED} more" if len(arrays) > _NAMED else ""
    return [f"  {len(arrays)} {kind}: {', '.join(map(_printable, arrays[:_NAMED]))}{more}"]


def _printable(name: str) -> str:
    """The name, without the power of a foreign file over the terminal."""
    return name if name.isprintable() else ascii(name)
