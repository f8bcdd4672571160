"""How explanations are told: their numbers as texts, and for notebooks a table as HTML."""

import jax
import numpy as np

from cfx_jax.fido import Explanation, Status

Scalar = float | np.ndarray | jax.Array

_MAX_ROWS = 10
_CELLS = 28  # along the longer side of a map
_SIDE = 84  # pixels of a map
# Of the perceptual colour map inferno, at 0, 1/4, ..., 1.
_COLORS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
_NONE = "n/a"
_HEADS = ("", "saliency", "target", "status", "before", "after", "area kept", "masks that agree")


def odds(log_odds: Scalar) -> str:
    """Returns the probability that log-odds stand for, and them: `35.8 % (-0.58)`, or `n/a`."""
    return f"{probability(log_odds)} ({log_odds:+.2f})" if np.isfinite(log_odds) else _NONE


def probability(log_odds: Scalar) -> str:
    """Returns the probability that log-odds stand for: `35.8 %`, or `n/a`."""
    # The logistic function, without what SciPy takes to be imported.
    return percent(0.5 + 0.5 * np.tanh(np.float64(log_odds) / 2.0))


def percent(share: Scalar) -> str:
    """Returns a share as `35.8 %`, or `n/a` where it is not finite."""
    return f"{100 * share:.1f} %" if np.isfinite(share) else _NONE


def number(value: Scalar) -> str:
    """Returns a number with two decimals, or `n/a` where it is not finite."""
    return f"{value:.2f}" if np.isfinite(value) else _NONE


def to_html(explanation: Explanation) -> str:
    """Lays explanations out as a table with a small map of each.

    Args:
        explanation: of one image, or with a leading axis N.

    Returns:
        HTML of the first ten, and how many more there are.
    """
    one = np.ndim(explanation.status) == 0
    found = jax.tree.map(lambda a: np.asarray(a)[None] if one else np.asarray(a), explanation)
    rows = [
        (
            str(n),
            _map(found.saliency[n]),
            str(int(found.target[n])),
            Status(int(found.status[n])).name.lower().replace("_", " "),
            odds(found.log_odds_original[n]),
            odds(found.log_odds_infilled[n]),
            percent(found.kept_area[n]),
            percent(found.success_rate[n]),
        )
        for n in range(min(len(found.target), _MAX_ROWS))
    ]
    heads = "".join(f"<th>{head}</th>" for head in _HEADS)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    more = len(found.target) - len(rows)
    rest = f"<p>and {more} more</p>" if more else ""
    how = "<p>With the images: <code>cfx_jax.report.figure(explanation, images)</code></p>"
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{rest}{how}"


def _map(saliency: np.ndarray) -> str:
    """Draws a map `[H, W]` as squares; nothing where it is not finite."""
    if not np.isfinite(saliency).all():
        return ""
    step = max(1, -(-max(saliency.shape) // _CELLS))
    # The middle of each square of pixels.
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
