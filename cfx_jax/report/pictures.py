"""Pictures of what was learnt and measured, and the one way from a picture to a PNG file.

Saliency maps are `[H, W]` in [0, 1], 1 = important, whatever the objective; pictures are uint8
`[H, W, 3]`, plots `[H, W, 4]`.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import expit

from cfx_jax.data.images import to_grey
from cfx_jax.fido.masks import MaskLaw, average_blocks, interpolation

_COLORMAP = "inferno"
_COLOR_SHARE = 0.55  # of the colour in the overlay; the rest is the grey photo
_SMALLEST_PICTURE = 224
_GAP = 4  # white pixels between the images of a sheet
_LEAST_WIDTH = 112  # smaller images of a sheet are enlarged to this
_TRACE_COLORS = {"ssr": "#2f81f7", "sdr": "#d9730d"}


def encode_png(picture: np.ndarray) -> bytes:
    """Encodes a picture or a plot."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def to_pixels(image: np.ndarray) -> np.ndarray:
    """Returns float `[H, W, 3]` or `[H, W, 1]` in [0, 1] as a picture."""
    pixels = np.round(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def draw_saliency(
    logits: np.ndarray, objective: str, photo: np.ndarray | None, law: MaskLaw
) -> np.ndarray:
    """Draws a learnt mask.

    Args:
        logits: `[h, w]`, of keeping a cell.
        objective: `"ssr"` or `"sdr"`.
        photo: uint8 `[H, W, 3]`, or None for the map alone.
        law: of the masks it was learnt with.

    Returns:
        A picture of the size of the photograph; without one at least 224 pixels wide.
    """
    if photo is not None:
        height, width = photo.shape[:2]
        return _overlay(saliency(logits, objective, (height, width), law), photo)
    factor = max(1, -(-_SMALLEST_PICTURE // max(logits.shape)))
    height, width = (factor * length for length in logits.shape)
    # Without blocks, since nothing says how large one is beside a cell.
    law = dataclasses.replace(law, block_size=1)
    return _overlay(saliency(logits, objective, (height, width), law), None)


def saliency(logits: np.ndarray, objective: str, size: tuple[int, int], law: MaskLaw) -> np.ndarray:
    """Maps mask logits `[h, w]` to importance at the pixels, as `Explanation.saliency` does.

    In NumPy, so that a page takes no accelerator and compiles nothing for each size of an image.
    """
    rows, columns = (
        interpolation(length, cells) for length, cells in zip(size, logits.shape, strict=True)
    )
    # Beyond 30 a probability is 0 or 1 to float32, and infinities would not interpolate.
    logits = np.clip(logits.astype(np.float32) / law.sharpness, -30, 30)
    keep = expit(rows @ logits @ columns.T) if law.draws else rows @ expit(logits) @ columns.T
    if law.block_size > 1:
        rows, columns = (average_blocks(length, law.block_size) for length in size)
        keep = rows @ keep @ columns.T
    # Weights add up to one only within rounding.
    keep = np.clip(keep, 0.0, 1.0)
    return np.asarray(1.0 - keep if objective == "sdr" else keep)


def draw_scale(over_photo: bool) -> np.ndarray:
    """Draws the colour bar: importance 0 to 1 from left to right, grey photo dark to light."""
    importance = np.tile(np.linspace(0, 1, 256), (24, 1))
    ramp = np.linspace(255, 0, 24).astype(np.uint8)[:, None, None]
    return _overlay(importance, np.tile(ramp, (1, 256, 3)) if over_photo else None)


def draw_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Lays images of one size out on white, small ones enlarged.

    Args:
        rows: of float `[H, W, 3]` or `[H, W, 1]` in [0, 1], as many in each row.

    Returns:
        A picture.
    """
    from skimage.util import montage

    images = np.stack([to_pixels(image) for row in rows for image in row])
    scale = max(-(-_LEAST_WIDTH // images.shape[2]), 1)
    sheet = montage(
        images.repeat(scale, axis=1).repeat(scale, axis=2),
        fill=(255, 255, 255),
        grid_shape=(len(rows), len(rows[0])),
        padding_width=_GAP,
        channel_axis=-1,
    )
    return np.asarray(sheet[_GAP:-_GAP, _GAP:-_GAP])


def draw_traces(traces: Mapping[str, np.ndarray]) -> np.ndarray:
    """Plots the objective at each step, transparent, legible on a light and on a dark page.

    Args:
        traces: by objective, float `[num_steps]`.

    Returns:
        A plot.
    """
    grey = "#808080"
    figure = _make_figure(4.2, 2.2, dpi=200, facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    for objective, trace in traces.items():
        steps = np.arange(1, len(trace) + 1)
        finite = np.where(np.isfinite(trace), trace, np.nan)
        style = {"color": _TRACE_COLORS[objective], "marker": "o" if len(trace) == 1 else None}
        axes.plot(steps, finite, label=objective.upper(), linewidth=1.5, **style)
    axes.set_xlabel("step", color=grey)
    axes.set_ylabel("objective", color=grey)
    axes.tick_params(colors=grey, labelsize=8)
    axes.grid(color=grey, alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(grey)
    axes.legend(frameon=False, labelcolor=grey)
    return _render(figure)


def draw_curves(
    scores: Mapping[str, Mapping[str, np.ndarray]], judges: Sequence[str]
) -> np.ndarray:
    """Plots the mean deletion and insertion curves of each method.

    Args:
        scores: by method, `deletion` and `insertion` `[N, G, P]`, probabilities of the target.
        judges: names of the G generators that fill the holes.

    Returns:
        A plot.
    """
    import matplotlib

    figure = _make_figure(5 * len(judges) + 2, 8)
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
    return _render(figure)


def draw_maps(maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """Plots the maps of some images, a row each, a column for each method.

    Args:
        maps: by method, `[n, h, w]` in [0, 1].

    Returns:
        A plot.
    """
    number = len(next(iter(maps.values())))
    figure = _make_figure(1.2 * len(maps), 1.25 * number + 0.8)
    axes = figure.subplots(number, len(maps), squeeze=False)
    for column, (name, rows) in enumerate(maps.items()):
        axes[0, column].set_title(name.replace("_", "\n"), fontsize=7)
        for row, values in enumerate(rows):
            axes[row, column].imshow(values.astype(float), cmap=_COLORMAP, vmin=0, vmax=1)
            axes[row, column].axis("off")
    return _render(figure)


def _overlay(importance: np.ndarray, photo: np.ndarray | None) -> np.ndarray:
    """Colours a saliency map on the fixed scale [0, 1], over the grey photo if there is one."""
    import matplotlib

    colors = matplotlib.colormaps[_COLORMAP](importance)[..., :3]
    if photo is not None:
        grey = np.asarray(to_grey(Image.fromarray(photo)))[..., None] / 255
        colors = _COLOR_SHARE * colors + (1 - _COLOR_SHARE) * grey
    return np.rint(255 * colors).astype(np.uint8)


def _make_figure(width: float, height: float, **options: Any) -> Any:
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained", **options)


def _render(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())
