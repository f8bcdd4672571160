"""Plots of an evaluation as PNG files."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

_COLORMAP = "inferno"


def draw_curves(scores: Mapping[str, Mapping[str, np.ndarray]], judges: Sequence[str]) -> bytes:
    """Draws the mean deletion and insertion curves of each method.

    Args:
        scores: by method, `deletion` and `insertion` `[N, G, P]`, probabilities of the target.
        judges: names of the G generators that fill the holes.

    Returns:
        A PNG file.
    """
    figure = Figure(figsize=(5 * len(judges) + 2, 8), layout="constrained")
    axes = figure.subplots(2, len(judges), squeeze=False, sharey=True)
    colors = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(scores)))
    for row, curve in enumerate(("deletion", "insertion")):
        for column, judge in enumerate(judges):
            axis = axes[row, column]
            for color, (name, values) in zip(colors, scores.items(), strict=True):
                points = np.nanmean(values[curve][:, column], axis=0)
                is_learnt = "success_rate" in values
                share = np.linspace(0, 1, len(points))
                axis.plot(share, points, color=color, label=name, lw=2.5 if is_learnt else 1)
            axis.set_title(f"{curve}, {judge} in the holes")
            axis.set_xlabel("replaced" if curve == "deletion" else "shown")
    axes[0, 0].set_ylabel("probability of the target")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    return _encode(figure)


def draw_maps(maps: Mapping[str, np.ndarray]) -> bytes:
    """Draws the maps of some images, a row each, a column for each method.

    Args:
        maps: by method, `[n, h, w]` in [0, 1].

    Returns:
        A PNG file.
    """
    number = len(next(iter(maps.values())))
    figure = Figure(figsize=(1.2 * len(maps), 1.25 * number + 0.8), layout="constrained")
    axes = figure.subplots(number, len(maps), squeeze=False)
    for column, (name, rows) in enumerate(maps.items()):
        axes[0, column].set_title(name.replace("_", "\n"), fontsize=7)
        for row, values in enumerate(rows):
            axes[row, column].imshow(values.astype(float), cmap=_COLORMAP, vmin=0, vmax=1)
            axes[row, column].axis("off")
    return _encode(figure)


def _encode(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
