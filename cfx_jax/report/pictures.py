"""Pictures of what was learnt: saliency maps in colour, over the photograph if there is one.

Saliency maps are `[H, W]` in [0, 1], 1 = important, whatever the objective; pictures are uint8
`[H, W, 3]`.
"""

import io

import numpy as np

from cfx_jax.fido.masks import average_blocks

_COLORMAP = "inferno"
_COLOR_SHARE = 0.55  # of the colour in the overlay; the rest is the grey photo
_SMALLEST_PICTURE = 224


def draw_saliency(
    logits: np.ndarray, objective: str, photo: np.ndarray | None, block_size: int
) -> np.ndarray:
    """Draws a learnt mask.

    Args:
        logits: `[h, w]`, of keeping a cell.
        objective: `"ssr"` or `"sdr"`.
        photo: `[H, W, 1]` or `[H, W, 3]` uint8, or None for the map alone.
        block_size: of the masks it was learnt with, in pixels of the photograph.

    Returns:
        uint8 `[H, W, 3]` of the size of the photograph; without one at least 224 pixels wide.
    """
    importance = saliency(logits, objective, photo, block_size)
    return overlay(importance, None if photo is None else rgb(photo))


def saliency(
    logits: np.ndarray, objective: str, photo: np.ndarray | None, block_size: int
) -> np.ndarray:
    """Upsamples mask logits `[h, w]` to the picture, then maps them to importance in [0, 1].

    Averaged over blocks as `Explanation.saliency` is; without a photograph it is the mask as it
    was learnt, since nothing says how large a block is beside a cell.
    """
    if photo is None:
        factor = max(1, -(-_SMALLEST_PICTURE // max(logits.shape)))
        size = (factor * logits.shape[0], factor * logits.shape[1])
    else:
        size = (photo.shape[0], photo.shape[1])
    # Beyond 30 a probability is 0 or 1 to float32, and infinities would not interpolate.
    keep = 1.0 / (1.0 + np.exp(-upsample(np.clip(logits.astype(np.float32), -30, 30), size)))
    if photo is not None and block_size > 1:
        rows, columns = (average_blocks(length, block_size) for length in size)
        keep = rows @ keep @ columns.T
    return 1.0 - keep if objective == "sdr" else keep


def upsample(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarges `[h, w]` to `size` bilinearly; corner cells lie on corner pixels."""
    for axis, length in enumerate(size):
        places = np.linspace(0, cells.shape[axis] - 1, length)
        low = places.astype(int)
        high = np.minimum(low + 1, cells.shape[axis] - 1)
        weight = np.expand_dims(places - low, 1 - axis)
        cells = cells.take(low, axis) * (1 - weight) + cells.take(high, axis) * weight
    return cells


def overlay(saliency: np.ndarray, photo: np.ndarray | None) -> np.ndarray:
    """Colours a saliency map on the fixed scale [0, 1], over the grey photo if there is one."""
    import matplotlib

    colors = matplotlib.colormaps[_COLORMAP](saliency)[..., :3]
    if photo is not None:
        grey = photo.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
        colors = _COLOR_SHARE * colors + (1 - _COLOR_SHARE) * grey[..., None]
    return np.rint(255 * colors).astype(np.uint8)


def color_scale(over_photo: bool) -> np.ndarray:
    """Returns the colour bar: importance 0 to 1 from left to right, grey photo dark to light."""
    saliency = np.tile(np.linspace(0, 1, 256), (24, 1))
    ramp = np.linspace(255, 0, 24)[:, None, None] * np.ones((1, 256, 3))
    return overlay(saliency, ramp if over_photo else None)


def rgb(image: np.ndarray) -> np.ndarray:
    """Returns a picture of three channels; a grey one has one."""
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def png(image: np.ndarray) -> bytes:
    """Encodes a picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
