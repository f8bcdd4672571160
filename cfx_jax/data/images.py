"""Decodes a picture to upright 8-bit RGB or grey, and resizes it and its boxes.

Boxes are float32 `[k, 4]`, `x0 y0 x1 y1`, in pixels from the top left corner of the upright image:
`0 0 W H` is the whole image.
"""

import contextlib
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, TiffImagePlugin

from cfx_jax.data.bit_depth import find_scale, scale_transparency

Array = TypeVar("Array", np.ndarray, jax.Array)

_FLOATS = np.arange(256, dtype=np.float32) / np.float32(255.0)
_MAX_PIXELS = 100_000_000
# EXIF orientation: whether x and y are swapped, and whether x and y are then reversed.
_TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


class Resize(NamedTuple):
    """Options for resizing an image; a function that accepts only a rule uses the other defaults.

    `cover` keeps the aspect ratio: it scales the image until it covers the size in both directions,
    and cuts out the centre. `crop` does the same after scaling by a further `1 / crop`. `stretch`
    scales the whole image to the size and ignores its aspect ratio.

    Attributes:
        rule: name of the rule, `crop`, `cover` or `stretch`.
        crop: share of the scaled side that the rule `crop` keeps; the published protocol resizes
            the short side to 256 and cuts out 224.
        interpolation: name of the interpolation, one of `cfx_jax.classifiers.INTERPOLATIONS`.
    """

    rule: str = "crop"
    crop: float = 224 / 256
    interpolation: str = "bicubic"


class UnreadableImageError(ValueError):
    """Error for an image that cannot be decoded; its example gets a status, and the run goes on."""


class _Silence:
    """Context manager that ignores Pillow's warnings while any thread is inside.

    `warnings.catch_warnings` alone is not thread-safe: on exit, a thread may restore the filters
    that another thread has set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._filters = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._num_inside:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._num_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if not self._num_inside:
                self._filters.close()


_silence = _Silence()


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns any error inside the block into an `UnreadableImageError` that names the image.

    Args:
        name: name of the image, for messages.

    Raises:
        UnreadableImageError: an error was raised inside the block.
    """
    try:
        # Pillow warns of images that it can still read: odd metadata, sizes within our limit.
        with _silence:
            yield
    except Exception as error:  # Decoders raise any type on broken bytes.
        raise UnreadableImageError(f"{name}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Describes an error of another library in one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def open_file(path: str | os.PathLike[str]) -> Image.Image:
    """Opens an image file without decoding it.

    Raises:
        OSError: the file cannot be read.
        ValueError: the path is not a regular file.
    """
    # Opening a pipe would wait for ever.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("is not a file")
    try:
        return Image.open(path)
    except Image.DecompressionBombError:
        # Pillow refuses this number of pixels, but we decode a large JPEG at a smaller scale.
        with contextlib.suppress(SyntaxError):
            return JpegImagePlugin.JpegImageFile(path)
        raise


def to_rgb(image: Image.Image, white: int | None = None) -> Image.Image:
    """Decodes an opened image to 8-bit RGB, rotated upright by its EXIF orientation.

    Transparent parts become white; the first frame of an animation is read. A JPEG of more than
    100 million pixels is decoded at a half, a quarter or an eighth of its size.

    Args:
        image: image of any mode; changed in place where that saves memory.
        white: value of white in grey images of more than 8 bits; None = the largest value of the
            depth in the header.

    Returns:
        An image of mode RGB.

    Raises:
        ValueError: there are too many pixels, the value of white is unknown (see `find_scale`), or
            all pixels are transparent; the header is checked before pixels are decoded.
        Exception: the pixels are damaged; its type varies, so call this function inside `reading`.
    """
    _limit_pixels(image)
    scale = find_scale(image, white)
    scale_transparency(image)
    image.load()
    # Damaged metadata do not affect the pixels.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    if scale is not None:
        image = scale.to_8_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        if layer.getchannel("A").getbbox() is None:
            # Only white would remain, although the colours below may be the picture.
            raise ValueError("all its pixels are transparent; save it without an alpha channel")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer)
    return image if image.mode == "RGB" else image.convert("RGB")


def _limit_pixels(image: Image.Image) -> None:
    """Makes Pillow decode a JPEG with too many pixels at a half, a quarter or an eighth."""
    width, height = image.size
    if width * height > _MAX_PIXELS:
        fits = [d for d in (2, 4) if math.ceil(width / d) * math.ceil(height / d) <= _MAX_PIXELS]
        divisor = fits[0] if fits else 8
        image.draft(None, (width // divisor, height // divisor))
    if math.prod(image.size) > _MAX_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels are more than {_MAX_PIXELS:,}, and only "
            "JPEG files can be read at a smaller scale; make it smaller"
        )


def to_grey(image: Image.Image) -> Image.Image:
    """Converts RGB to grey, mode L: the luma `0.299 R + 0.587 G + 0.114 B` (ITU-R BT.601)."""
    return image.convert("L")


def to_floats(pixels: Array) -> Array:
    """Scales 8-bit pixels to [0, 1], on the host or, for JAX arrays, on their device.

    Args:
        pixels: pixel values of any shape, uint8.

    Returns:
        float32 `pixels / 255`, correctly rounded. (Compilers replace the division by a constant
        with a multiplication by its rounded reciprocal, which changes the last bit of half the
        values.)

    Raises:
        ValueError: the pixels are not uint8.
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype}; expected uint8 in 0 to 255")
    return jnp.asarray(_FLOATS)[pixels] if isinstance(pixels, jax.Array) else _FLOATS[pixels]


def fit(image: Image.Image, size: tuple[int, int], resize: str | Resize) -> np.ndarray:
    """Resizes an image.

    Args:
        image: image of mode RGB or L.
        size: size of the result, `(H, W)`.
        resize: a `Resize`, or its rule alone.

    Returns:
        Pixels, uint8 `[H, W, C]`, C = 3 for RGB or 1 for L.

    Raises:
        ValueError: the rule is unknown.
    """
    if isinstance(resize, str):
        resize = Resize(resize)
    # Window in source pixels: pixels outside of it are never resized.
    window = _window((image.height, image.width), size, resize)
    how = Image.Resampling[resize.interpolation.upper()]
    resized = image.resize(size[::-1], how, box=window)
    return np.asarray(resized).reshape(*size, -1)


def fit_boxes(
    boxes: np.ndarray, image_size: tuple[int, int], size: tuple[int, int], resize: str | Resize
) -> np.ndarray:
    """Transforms boxes of an image to the coordinates of the image that `fit` returns.

    Boxes are not clamped: parts that `fit` cuts off lie outside of `0 0 W H`.

    Args:
        boxes: boxes, `[k, 4]`, `x0 y0 x1 y1` in pixels of the upright image.
        image_size: size of the upright image, `(H, W)`.
        size: size of the fitted image, `(H, W)`.
        resize: a `Resize`, or its rule alone.

    Returns:
        Boxes, float32 `[k, 4]`, in pixels of the fitted image.

    Raises:
        ValueError: the boxes have another shape, or the rule is unknown.

    Example:
        >>> fit_boxes(np.array([[100, 0, 200, 50]]), (100, 300), (50, 50), "cover")
        array([[ 0.,  0., 50., 25.]], dtype=float32)
    """
    if np.ndim(boxes) != 2 or np.shape(boxes)[1] != 4:
        raise ValueError(f"boxes have shape {np.shape(boxes)}; expected [k, 4]")
    left, top, right, bottom = _window(image_size, size, resize)
    scale = np.array([size[1] / (right - left), size[0] / (bottom - top)])
    return ((boxes - np.array([left, top] * 2)) * np.tile(scale, 2)).astype(np.float32)


def upright_boxes(fractions: np.ndarray, image: Image.Image) -> np.ndarray:
    """Converts relative boxes of the stored pixels to pixels of the upright image.

    Args:
        fractions: boxes, `[k, 4]`, `x0 y0 x1 y1` as fractions of width and height, before EXIF
            rotation.
        image: opened image; it need not be decoded.

    Returns:
        Boxes, float32 `[k, 4]`, in pixels of the upright image.
    """
    orientation = 1
    with contextlib.suppress(Exception):  # `to_rgb` ignores damaged metadata, too.
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    is_swapped, is_x_reversed, is_y_reversed = _TURNS.get(orientation, (False, False, False))
    # Pillow already swaps the size of a TIFF file when it opens it.
    tags = getattr(image, "tag_v2", {})
    stored_width = tags.get(TiffImagePlugin.IMAGEWIDTH, image.width)
    stored_height = tags.get(TiffImagePlugin.IMAGELENGTH, image.height)
    (x, width), (y, height) = (fractions[:, ::2], stored_width), (fractions[:, 1::2], stored_height)
    if is_swapped:
        x, width, y, height = y, height, x, width
    if is_x_reversed:
        x = 1.0 - x[:, ::-1]
    if is_y_reversed:
        y = 1.0 - y[:, ::-1]
    return np.stack([x * width, y * height], axis=-1).reshape(-1, 4).astype(np.float32)


def _window(
    image_size: tuple[int, int], size: tuple[int, int], resize: str | Resize
) -> tuple[float, float, float, float]:
    """Returns the visible part of an image, `x0 y0 x1 y1` in its pixels."""
    (image_height, image_width), (height, width) = image_size, size
    if isinstance(resize, str):
        resize = Resize(resize)
    if resize.rule == "stretch":
        return 0.0, 0.0, image_width, image_height
    if resize.rule not in ("crop", "cover"):
        raise ValueError(f"resize is {resize.rule!r}; expected crop, cover or stretch")
    margin = 1.0 / resize.crop if resize.rule == "crop" else 1.0
    scale = margin * max(height / image_height, width / image_width)
    columns, rows = round(image_width * scale), round(image_height * scale)
    left, top = (columns - width) // 2, (rows - height) // 2
    return (
        left * image_width / columns,
        top * image_height / rows,
        (left + width) * image_width / columns,
        (top + height) * image_height / rows,
    )
