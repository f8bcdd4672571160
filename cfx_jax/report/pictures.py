"""Draws pictures and plots of explanations and evaluations, and encodes pictures as files.

Saliency maps are `[H, W]` in [0, 1], 1 = important, for both objectives; pictures are uint8
`[H, W, 3]`, plots `[H, W, 4]`.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
from PIL import Image
from scipy.special import expit

from cfx_jax.data import to_grey
from cfx_jax.fido import SSR, MaskLaw, find_direction

_P = ParamSpec("_P")
_R = TypeVar("_R")

_COLORMAP = "inferno"
_COLOR_SHARE = 0.55  # Share of the colour in the overlay; the rest is the grey photo.
_SMALLEST_PICTURE = 224
_GAP = 4  # White pixels between the images of a sheet.
_MIN_WIDTH = 112  # Smaller images of a sheet or strip are enlarged to this or more.
_LARGEST_TILE = 1024  # Larger pictures of a strip are reduced to this.
_WEBP_BLOCK = 16  # Side of a WebP block, whose pixels share colours and predictions.
_HALF = 0.5  # Share of the mass of a map that its outline contains.
_STRIDE = 3  # Pixels between the points of an outline.


def plain_text(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Makes a function draw without LaTeX, even if the settings of Matplotlib enable it."""

    @functools.wraps(function)
    def draw(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        import matplotlib

        with matplotlib.rc_context({"text.usetex": False}):
            return function(*args, **kwargs)

    return draw


def encode_png(picture: np.ndarray) -> bytes:
    """Encodes a picture or a plot as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_webp(picture: np.ndarray) -> bytes:
    """Encodes a picture for the gallery: lossy, with a ninth of the size of PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="WEBP", quality=80, method=2)
    return buffer.getvalue()


def to_pixels(image: np.ndarray) -> np.ndarray:
    """Converts a float image `[H, W, 3]` or `[H, W, 1]` in [0, 1] to a picture."""
    pixels = np.round(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def draw_saliency(
    logits: np.ndarray, objective: str, photo: np.ndarray | None, law: MaskLaw
) -> np.ndarray:
    """Draws a learnt mask, with an outline around the region with half of its mass.

    Args:
        logits: logits of keeping a cell, `[h, w]`.
        objective: objective of the mask, `"ssr"` or `"sdr"`.
        photo: photograph, uint8 `[H, W, 3]`; None draws the map alone.
        law: mask law of the learnt mask.

    Returns:
        A picture with the size of the photograph, else with at least 224 pixels on the longer side.
    """
    importance = map_importance(logits, objective, photo, law)
    return draw_edge(overlay(importance, photo), half_region(importance))


def map_importance(
    logits: np.ndarray, objective: str, photo: np.ndarray | None, law: MaskLaw
) -> np.ndarray:
    """Maps a learnt mask to importance at the pixels of its photograph.

    Args:
        logits: logits of keeping a cell, `[h, w]`.
        objective: objective of the mask, `"ssr"` or `"sdr"`.
        photo: photograph, `[H, W, 3]`; None enlarges whole cells to at least 224 pixels on the
            longer side.
        law: mask law of the learnt mask.

    Returns:
        Importance, float `[H, W]` in [0, 1].
    """
    if photo is not None:
        return saliency(logits, objective, (photo.shape[0], photo.shape[1]), law)
    factor = max(1, -(-_SMALLEST_PICTURE // max(logits.shape)))
    height, width = (factor * length for length in logits.shape)
    # Without blocks, because the size of a block relative to a cell is unknown.
    return saliency(logits, objective, (height, width), dataclasses.replace(law, block_size=1))


def half_region(importance: np.ndarray) -> np.ndarray:
    """Returns the smallest region with half of the mass of a map `[H, W]`, bool `[H, W]`.

    Pixels of equal importance are included together; the region is empty if the map has no mass.
    """
    return importance >= _half_level(importance)


def draw_edge(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Draws a white line inside the boundary of a region, and a dark line outside of it."""
    from scipy import ndimage

    width = max(1, round(max(region.shape) / _SMALLEST_PICTURE))
    # The outside of the picture counts as region, so that no line is drawn along its edge.
    inner = region & ~ndimage.binary_erosion(region, iterations=width, border_value=1)
    outer = ndimage.binary_dilation(region, iterations=width) & ~region
    drawn = picture.copy()
    drawn[outer], drawn[inner] = 0, 255
    return drawn


def trace_outline(importance: np.ndarray) -> str:
    """Returns the boundary of `half_region` as an SVG path, in half pixels."""
    from skimage import measure

    level = _half_level(importance)
    if not np.isfinite(level):
        return ""
    # The line runs between the pixels of both sides; padding continues it along the picture's edge.
    lines = measure.find_contours(np.pad(importance, 1), level - 1e-9)
    path = ""
    for line in lines:
        # The contour has one point per pixel; a third of them, to half a pixel, looks the same.
        points = np.rint(2 * line[::_STRIDE, ::-1] - 1).astype(int)
        steps = np.diff(points, axis=0).ravel().tolist()
        path += f"M{points[0, 0]} {points[0, 1]}l{' '.join(map(str, steps))}z" if steps else ""
    return path


def overlay(importance: np.ndarray, photo: np.ndarray | None) -> np.ndarray:
    """Colours a map `[H, W]` on the fixed scale [0, 1], over the grey photo if it is given."""
    import matplotlib

    colors = matplotlib.colormaps[_COLORMAP](importance)[..., :3]
    if photo is not None:
        grey = np.asarray(to_grey(Image.fromarray(photo)))[..., None] / 255
        colors = _COLOR_SHARE * colors + (1 - _COLOR_SHARE) * grey
    return np.rint(255 * colors).astype(np.uint8)


def draw_strip(tiles: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Places pictures of equal size side by side, so that the gallery loads one file per example.

    Args:
        tiles: pictures, uint8 `[H, W, 3]`. Small pictures are enlarged by whole pixels, large
            pictures are reduced.

    Returns:
        The picture, and the geometry of its tiles: height, width, distance from tile to tile, and
        number of padding columns before a tile. Tiles are padded with their outer columns to whole
        blocks of WebP, so that adjacent tiles do not mix, neither in the file nor when the gallery
        scales it.
    """
    height, width = tiles[0].shape[:2]
    scale = max(-(-_MIN_WIDTH // width), 1)
    tiles = [tile.repeat(scale, axis=0).repeat(scale, axis=1) for tile in tiles]
    height, width = scale * height, scale * width
    if max(height, width) > _LARGEST_TILE:
        share = _LARGEST_TILE / max(height, width)
        height, width = max(1, round(share * height)), max(1, round(share * width))
        tiles = [np.asarray(Image.fromarray(tile).resize((width, height))) for tile in tiles]
    # Pad by at least one column on either side.
    padding = 2 + (-width - 2) % _WEBP_BLOCK
    before = padding // 2
    tiles = [np.pad(tile, ((0, 0), (before, padding - before), (0, 0)), "edge") for tile in tiles]
    return np.concatenate(tiles, axis=1), (height, width, width + padding, before)


def saliency(logits: np.ndarray, objective: str, size: tuple[int, int], law: MaskLaw) -> np.ndarray:
    """Maps mask logits `[h, w]` to importance at the pixels, like `Explanation.saliency`.

    It uses NumPy, so that a gallery needs no accelerator and no compilation per image size.
    """
    # Beyond 30, a probability is 0 or 1 in float32; infinite logits could not be interpolated.
    most = 30.0 * law.sharpness
    logits = np.clip(logits.astype(np.float32), -most, most)
    cells = logits if law.is_random else expit(logits)
    keep: np.ndarray = law.upsample_keep(cells, size, expit, _enlarge)
    return keep if find_direction(objective) == SSR else 1.0 - keep


def _enlarge(rows: np.ndarray, cells: np.ndarray, columns: np.ndarray) -> np.ndarray:
    # `einsum` uses one thread; for this thin product BLAS uses several and is 20 times slower.
    return np.asarray(np.einsum("yw,xw->yx", rows @ cells, columns))


def draw_scale(over_photo: bool) -> np.ndarray:
    """Draws the colour bar: importance 0 to 1 from left to right, grey photo dark to light."""
    importance = np.tile(np.linspace(0, 1, 256), (24, 1))
    ramp = np.linspace(255, 0, 24).astype(np.uint8)[:, None, None]
    return overlay(importance, np.tile(ramp, (1, 256, 3)) if over_photo else None)


def draw_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Arranges images of equal size on white; small images are enlarged.

    Args:
        rows: rows of pictures, float `[H, W, 3]` or `[H, W, 1]` in [0, 1]; all rows have equal
            length.

    Returns:
        A picture.
    """
    from skimage.util import montage

    images = np.stack([to_pixels(image) for row in rows for image in row])
    scale = max(-(-_MIN_WIDTH // images.shape[2]), 1)
    sheet = montage(
        images.repeat(scale, axis=1).repeat(scale, axis=2),
        fill=(255, 255, 255),
        grid_shape=(len(rows), len(rows[0])),
        padding_width=_GAP,
        channel_axis=-1,
    )
    return np.asarray(sheet[_GAP:-_GAP, _GAP:-_GAP])


@plain_text
def draw_curves(
    scores: Mapping[str, Mapping[str, np.ndarray]], infills: Sequence[str]
) -> np.ndarray:
    """Plots the mean deletion and insertion curves of each method.

    Args:
        scores: curves `deletion` and `insertion` of each method, `[N, G, P]`, probabilities of the
            target.
        infills: names of the G generators that fill the holes.

    Returns:
        A plot.
    """
    import matplotlib

    figure = make_figure(5 * len(infills) + 2, 8)
    axes = figure.subplots(2, len(infills), squeeze=False, sharey=True)
    colors = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(scores)))
    for row, curve in enumerate(("deletion", "insertion")):
        for column, infill in enumerate(infills):
            axis = axes[row, column]
            for color, (name, values) in zip(colors, scores.items(), strict=True):
                points = np.nanmean(values[curve][:, column], axis=0)
                is_learnt = "success_rate" in values
                share = np.linspace(0, 1, len(points))
                axis.plot(share, points, color=color, label=name, lw=2.5 if is_learnt else 1)
            axis.set_title(f"{curve}, {infill} in the holes")
            axis.set_xlabel("share replaced" if curve == "deletion" else "share inserted")
    axes[0, 0].set_ylabel("probability of the target")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    return _render(figure)


@plain_text
def draw_maps(maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """Plots the maps of some images, with one row per image and one column per method.

    Args:
        maps: maps by method, `[n, h, w]` in [0, 1].

    Returns:
        A plot.
    """
    number = len(next(iter(maps.values())))
    figure = make_figure(1.2 * len(maps), 1.25 * number + 0.8)
    axes = figure.subplots(number, len(maps), squeeze=False)
    for column, (name, rows) in enumerate(maps.items()):
        axes[0, column].set_title(name.replace("_", "\n"), fontsize=7)
        for row, values in enumerate(rows):
            options = {"cmap": _COLORMAP, "vmin": 0, "vmax": 1, "origin": "upper"}
            axes[row, column].imshow(values.astype(float), **options)
            axes[row, column].axis("off")
    return _render(figure)


def _half_level(importance: np.ndarray) -> float:
    """Returns the least importance in the region with half of the mass; infinite without mass."""
    ordered = np.sort(importance, axis=None)[::-1]
    mass = np.cumsum(ordered)
    if not mass[-1] > 0:
        return float("inf")
    return float(ordered[np.searchsorted(mass, _HALF * mass[-1])])


def make_figure(width: float, height: float, **options: Any) -> Any:
    """Creates a figure, with its size in inches, outside of windows and pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained", **options)


def _render(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())
