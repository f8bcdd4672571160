"""Pictures of what was learnt and measured, and the one way from a picture to a file.

Saliency maps are `[H, W]` in [0, 1], 1 = important, whatever the objective; pictures are uint8
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
_COLOR_SHARE = 0.55  # of the colour in the overlay; the rest is the grey photo
_SMALLEST_PICTURE = 224
_GAP = 4  # white pixels between the images of a sheet
_MIN_WIDTH = 112  # smaller images of a sheet are enlarged to this
_LARGEST_TILE = 1024  # larger pictures of a strip are made smaller to this
_WEBP_BLOCK = 16  # pixels that share a colour, or a prediction, with their neighbours
_HALF = 0.5  # of the mass of a map, outlined
_STRIDE = 3  # pixels between the points of an outline


def plain_text(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Makes a function draw without LaTeX, which the settings of Matplotlib may ask for."""

    @functools.wraps(function)
    def draw(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        import matplotlib

        with matplotlib.rc_context({"text.usetex": False}):
            return function(*args, **kwargs)

    return draw


def encode_png(picture: np.ndarray) -> bytes:
    """Encodes a picture or a plot."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_webp(picture: np.ndarray) -> bytes:
    """Encodes a picture for the gallery: lossy, with a ninth of the size of PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="WEBP", quality=80, method=2)
    return buffer.getvalue()


def to_pixels(image: np.ndarray) -> np.ndarray:
    """Returns float `[H, W, 3]` or `[H, W, 1]` in [0, 1] as a picture."""
    pixels = np.round(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def draw_saliency(
    logits: np.ndarray, objective: str, photo: np.ndarray | None, law: MaskLaw
) -> np.ndarray:
    """Draws a learnt mask, and around the region that holds half of its mass a line.

    Args:
        logits: `[h, w]`, of keeping a cell.
        objective: `"ssr"` or `"sdr"`.
        photo: uint8 `[H, W, 3]`, or None for the map alone.
        law: mask law of the learnt mask.

    Returns:
        A picture of the size of the photograph; without one at least 224 pixels wide.
    """
    importance = map_importance(logits, objective, photo, law)
    return draw_edge(overlay(importance, photo), half_region(importance))


def map_importance(
    logits: np.ndarray, objective: str, photo: np.ndarray | None, law: MaskLaw
) -> np.ndarray:
    """Maps a learnt mask to importance at the pixels of its photograph.

    Args:
        logits: `[h, w]`, of keeping a cell.
        objective: `"ssr"` or `"sdr"`.
        photo: `[H, W, 3]`; None for whole cells, at least 224 pixels of them.
        law: mask law of the learnt mask.

    Returns:
        float `[H, W]` in [0, 1].
    """
    if photo is not None:
        return saliency(logits, objective, (photo.shape[0], photo.shape[1]), law)
    factor = max(1, -(-_SMALLEST_PICTURE // max(logits.shape)))
    height, width = (factor * length for length in logits.shape)
    # Without blocks, since nothing says how large one is beside a cell.
    return saliency(logits, objective, (height, width), dataclasses.replace(law, block_size=1))


def half_region(importance: np.ndarray) -> np.ndarray:
    """Returns the smallest region that holds half of the mass of a map `[H, W]`, bool `[H, W]`.

    Pixels of one importance are in it together; it is empty where the map has no mass.
    """
    return importance >= _half_level(importance)


def draw_edge(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Draws a white line on the inner side of a region's boundary, a dark one on the outer side."""
    from scipy import ndimage

    width = max(1, round(max(region.shape) / _SMALLEST_PICTURE))
    # The outside of the picture counts as region: an outline along its edge has no meaning.
    inner = region & ~ndimage.binary_erosion(region, iterations=width, border_value=1)
    outer = ndimage.binary_dilation(region, iterations=width) & ~region
    drawn = picture.copy()
    drawn[outer], drawn[inner] = 0, 255
    return drawn


def trace_outline(importance: np.ndarray) -> str:
    """Returns the boundary of `half_region` as the path of an SVG, in half pixels."""
    from skimage import measure

    level = _half_level(importance)
    if not np.isfinite(level):
        return ""
    # A line runs between pixels of either side, and along the edge of the picture.
    lines = measure.find_contours(np.pad(importance, 1), level - 1e-9)
    path = ""
    for line in lines:
        # The contour has a point per pixel; a third of them, to half a pixel, looks the same.
        points = np.rint(2 * line[::_STRIDE, ::-1] - 1).astype(int)
        steps = np.diff(points, axis=0).ravel().tolist()
        path += f"M{points[0, 0]} {points[0, 1]}l{' '.join(map(str, steps))}z" if steps else ""
    return path


def overlay(importance: np.ndarray, photo: np.ndarray | None) -> np.ndarray:
    """Colours a map `[H, W]` on the fixed scale [0, 1], over the grey photo if there is one."""
    import matplotlib

    colors = matplotlib.colormaps[_COLORMAP](importance)[..., :3]
    if photo is not None:
        grey = np.asarray(to_grey(Image.fromarray(photo)))[..., None] / 255
        colors = _COLOR_SHARE * colors + (1 - _COLOR_SHARE) * grey
    return np.rint(255 * colors).astype(np.uint8)


def draw_strip(tiles: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Lays pictures of one size side by side, so that the gallery loads one file per example.

    Args:
        tiles: uint8 `[H, W, 3]`. Small ones are enlarged pixel by pixel, large ones made smaller.

    Returns:
        A picture, and of each tile in it height, width, distance to the next one and the columns
        before it: tiles go on with their outer columns to whole blocks of WebP, so that none is
        mixed with the next one, in the file or where the gallery scales it.
    """
    height, width = tiles[0].shape[:2]
    scale = max(-(-_MIN_WIDTH // width), 1)
    tiles = [tile.repeat(scale, axis=0).repeat(scale, axis=1) for tile in tiles]
    height, width = scale * height, scale * width
    if max(height, width) > _LARGEST_TILE:
        share = _LARGEST_TILE / max(height, width)
        height, width = max(1, round(share * height)), max(1, round(share * width))
        tiles = [np.asarray(Image.fromarray(tile).resize((width, height))) for tile in tiles]
    # At least one column on either side.
    padding = 2 + (-width - 2) % _WEBP_BLOCK
    before = padding // 2
    tiles = [np.pad(tile, ((0, 0), (before, padding - before), (0, 0)), "edge") for tile in tiles]
    return np.concatenate(tiles, axis=1), (height, width, width + padding, before)


def saliency(logits: np.ndarray, objective: str, size: tuple[int, int], law: MaskLaw) -> np.ndarray:
    """Maps mask logits `[h, w]` to importance at the pixels, as `Explanation.saliency` does.

    In NumPy, so that a gallery needs no accelerator and no compilation for each image size.
    """
    # Beyond 30 a probability is 0 or 1 to float32, and infinities would not interpolate.
    most = 30.0 * law.sharpness
    logits = np.clip(logits.astype(np.float32), -most, most)
    cells = logits if law.is_random else expit(logits)
    keep: np.ndarray = law.upsample_keep(cells, size, expit, _enlarge)
    return keep if find_direction(objective) == SSR else 1.0 - keep


def _enlarge(rows: np.ndarray, cells: np.ndarray, columns: np.ndarray) -> np.ndarray:
    # In one thread: BLAS takes several for a product so flat, and is twenty times slower.
    return np.asarray(np.einsum("yw,xw->yx", rows @ cells, columns))


def draw_scale(over_photo: bool) -> np.ndarray:
    """Draws the colour bar: importance 0 to 1 from left to right, grey photo dark to light."""
    importance = np.tile(np.linspace(0, 1, 256), (24, 1))
    ramp = np.linspace(255, 0, 24).astype(np.uint8)[:, None, None]
    return overlay(importance, np.tile(ramp, (1, 256, 3)) if over_photo else None)


def draw_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Lays images of one size out on white, small ones enlarged.

    Args:
        rows: rows of pictures, float `[H, W, 3]` or `[H, W, 1]` in [0, 1], as many in each row.

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
        scores: by method, `deletion` and `insertion` `[N, G, P]`, probabilities of the target.
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
    """Plots the maps of some images, a row each, a column for each method.

    Args:
        maps: by method, `[n, h, w]` in [0, 1].

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
    """The least importance in the smallest region with half of the mass; infinite without mass."""
    ordered = np.sort(importance, axis=None)[::-1]
    mass = np.cumsum(ordered)
    if not mass[-1] > 0:
        return float("inf")
    return float(ordered[np.searchsorted(mass, _HALF * mass[-1])])


def make_figure(width: float, height: float, **options: Any) -> Any:
    """Makes a figure of so many inches that no window and no global state knows of."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained", **options)


def _render(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())
