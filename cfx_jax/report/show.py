"""Numbers of explanations as text, and explanations as an HTML table for notebooks."""

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
    """Formats explanations as a table with a small saliency map each.

    Args:
        explanation: explanation of one image, or of images with any number of leading axes.

    Returns:
        HTML of the first ten, the number of further ones, and the meaning of each failure.
    """
    axes = np.shape(explanation.status)
    found = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(-1, *np.shape(leaf)[len(axes) :]), explanation
    )
    places = [", ".join(map(str, place)) for place in np.ndindex(*axes)]
    rows = [
        (
            places[n],
            _map(found.saliency[n]),
            str(int(found.target[n])),
            _name(Status(int(found.status[n]))),
            odds(found.log_odds_original[n]),
            odds(found.log_odds_infilled[n]),
            percent(found.kept_area[n]),
            percent(found.success_rate[n]),
            _NONE if found.stability is None else number(found.stability[n]),
        )
        for n in range(min(len(found.target), _MAX_ROWS))
    ]
    heads = "".join(f"<th>{head}</th>" for head in _HEADS)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    more = len(found.target) - len(rows)
    rest = f"<p>and {more} more</p>" if more else ""
    failed = sorted({Status(int(code)) for code in found.status} - {Status.OK})
    notes = "".join(
        f"<p>{_name(status)}: {status.meaning}; {status.advice}</p>" for status in failed
    )
    how = "<p>With the images: <code>cfx_jax.report.figure(explanation, images)</code></p>"
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{rest}{notes}{how}"


def _name(status: Status) -> str:
    return status.name.lower().replace("_", " ")


def _map(saliency: np.ndarray) -> str:
    """Draws a saliency map `[H, W]` as squares; nothing if it is not finite."""
    if not np.isfinite(saliency).all():
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
