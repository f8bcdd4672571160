"""Sheets of images, row by row, as a person looks at them."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

_GAP = 4  # white pixels between images
_LEAST_WIDTH = 112  # smaller images are enlarged to this


def draw_sheet(rows: Sequence[Sequence[np.ndarray]]) -> bytes:
    """Lays images of one size out on white.

    Args:
        rows: of float `[H, W, 3]` or `[H, W, 1]` in [0, 1], as many in each row.

    Returns:
        A PNG file.
    """
    height, width = rows[0][0].shape[:2]
    scale = max(-(-_LEAST_WIDTH // width), 1)
    height, width = scale * height + _GAP, scale * width + _GAP
    size = (width * len(rows[0]) - _GAP, height * len(rows) - _GAP)
    sheet = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            pixels = _to_uint8(image).repeat(scale, axis=0).repeat(scale, axis=1)
            sheet.paste(Image.fromarray(pixels), (x * width, y * height))
    return _encode(sheet)


def draw_image(image: np.ndarray) -> bytes:
    """Encodes float `[H, W, 3]` or `[H, W, 1]` in [0, 1] as a PNG file of its size."""
    return _encode(Image.fromarray(_to_uint8(image)))


def _to_uint8(image: np.ndarray) -> np.ndarray:
    pixels = np.round(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _encode(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
