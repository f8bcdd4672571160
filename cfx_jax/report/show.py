"""Formats numbers of explanations as text, and explanations as an HTML table for notebooks."""

import dataclasses
import html
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cfx_jax.fido import Explanation, Status

Scalar = float | np.ndarray | jax.Array

_MAX_ROWS = 10
_CELLS = 28  # Squares along the longer side of a map.
_SIDE = 84  # Width of a map in pixels.
# The perceptual colour map inferno at 0, 1/4, ..., 1.
_COLORS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
_NONE = "n/a"
_HEADS = (
    "",
    "saliency",
    "target",
    "status",
    "before",
    "after",
    "area kept",
    "success rate",
    "stability",
)


def odds(log_odds: Scalar) -> str:
    """Formats log-odds with their probability: `35.8 % (-0.58)`, or `n/a` if not finite."""
    return f"{probability(log_odds)} ({log_odds:+.2f})" if np.isfinite(log_odds) else _NONE


def probability(log_odds: Scalar) -> str:
    """Formats the probability of log-odds: `35.8 %`, or `n/a` if not finite."""
    # The logistic function; importing it from SciPy is slow.
    return percent(0.5 + 0.5 * np.tanh(np.float64(log_odds) / 2.0))


def percent(share: Scalar) -> str:
    """Formats a share: `35.8 %`, or `n/a` if not finite."""
    return f"{100 * share:.1f} %" if np.isfinite(share) else _NONE


def number(value: Scalar) -> str:
    """Formats a number with two decimals, or `n/a` if not finite."""
    return f"{value:.2f}" if np.isfinite(value) else _NONE


def to_html(explanation: Explanation) -> str:
    """Formats explanations as an HTML table with a small saliency map in each row.

    Args:
        explanation: explanation of one image, or of images with any number of leading axes.

    Returns:
        HTML of the first ten explanations, the number of further explanations, and the meaning of
        each failure. Fields that are None are `n/a`. If fields have no values, as inside `jit`, or
        different leading axes, HTML of the shape and type of each field.
    """
    if not _can_show(explanation):
        return _shapes(explanation)
    axes = np.shape(explanation.status)
    places = [", ".join(map(str, place)) for place in np.ndindex(*axes)]
    found = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(len(places), *np.shape(leaf)[len(axes) :]),
        explanation,
    )
    rows = [_row(places[n], found, n) for n in range(min(len(places), _MAX_ROWS))]
    heads = "".join(f"<th>{head}</th>" for head in _HEADS)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    more = len(places) - len(rows)
    rest = f"<p>and {more} more</p>" if more else ""
    codes = {int(code) for code in found.status}
    failed = [status for status in Status if status in codes - {Status.OK}]
    notes = "".join(
        f"<p>{_name(status)}: {status.meaning}; {status.advice}</p>" for status in failed
    )
    how = "<p>With the images: <code>cfx_jax.report.figure(explanation, images)</code></p>"
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{rest}{notes}{how}"


def _row(place: str, found: Explanation, index: int) -> list[str]:
    columns = (found.saliency, *(getattr(found, name) for name in _FORMATS))
    formats = (_map, *_FORMATS.values())
    return [
        place,
        *(
            _NONE if values is None else form(values[index])
            for values, form in zip(columns, formats, strict=True)
        ),
    ]


def _can_show(explanation: Explanation) -> bool:
    """Returns whether the fields have values, and the same leading axes as the status."""
    if explanation.status is None or not all(map(_has_value, jax.tree.leaves(explanation))):
        return False
    axes = np.shape(explanation.status)
    scalars = [getattr(explanation, name) for name in _FORMATS]
    return all(
        np.shape(leaf)[: len(axes)] == axes for leaf in jax.tree.leaves(explanation)
    ) and all(np.shape(leaf) == axes for leaf in scalars if leaf is not None)


def _has_value(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    if isinstance(leaf, jax.Array):
        return leaf.is_fully_addressable and not leaf.is_deleted()
    return isinstance(leaf, np.ndarray | np.generic | float | int)


def _shapes(explanation: Explanation) -> str:
    rows = [
        (field.name, getattr(value, "dtype", type(value).__name__), getattr(value, "shape", ""))
        for field in dataclasses.fields(explanation)
        for value in [getattr(explanation, field.name)]
    ]
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<p>Explanation without values to show</p><table><tbody>{body}</tbody></table>"


def _status_name(code: Any) -> str:
    known = {int(status): _name(status) for status in Status}
    return known.get(int(code), f"unknown status {int(code)}")


_FORMATS: dict[str, Callable[[Any], str]] = {
    "target": lambda target: str(int(target)),
    "status": _status_name,
    "log_odds_original": odds,
    "log_odds_infilled": odds,
    "kept_area": percent,
    "success_rate": percent,
    "stability": number,
}
"""Scalar fields in the columns of the table after the map, and their formats."""


def _name(status: Status) -> str:
    return status.name.lower().replace("_", " ")


def _map(saliency: np.ndarray) -> str:
    """Draws a saliency map `[H, W]` as squares; nothing if it is empty or not finite."""
    if saliency.ndim != 2 or not saliency.size or not np.isfinite(saliency).all():
        return ""
    step = max(1, -(-max(saliency.shape) // _CELLS))
    # The central pixel of each square.
    cells = saliency[step // 2 :: step, step // 2 :: step]
    height, width = cells.shape
    stops = np.linspace(0, 1, len(_COLORS))
    channels = [np.interp(cells, stops, channel) for channel in zip(*_COLORS, strict=True)]
    colors = np.rint(np.stack(channels, -1)).astype(int).tolist()
    squares = "".join(
        f'<rect x="{x}" y="{y}" width="1" height="1" fill="rgb({r},{g},{b})"/>'
        for y, row in enumerate(colors)
        for x, (r, g, b) in enumerate(row)
    )
    size = f'width="{_SIDE}" height="{round(_SIDE * height / width)}"'
    label = 'role="img" aria-label="saliency map" shape-rendering="crispEdges"'
    return f'<svg {size} viewBox="0 0 {width} {height}" {label}>{squares}</svg>'
