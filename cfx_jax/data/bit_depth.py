"""Finds black and white of pictures with more than 8 bits in the header of the file.

The mode that Pillow decodes to does not determine them: it decodes 12-bit TIFF files to 16-bit
greys without scaling, and does not invert 16-bit files whose 0 is white. Pictures whose pixels
Pillow decodes wrongly are refused.
"""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

_MAX = 2**16 - 1
# Values of tags of TIFF files.
_SIGNED, _PLANAR = 2, 2
# Start of a JPEG 2000 codestream, with the marker SIZ, and the place of the depth after it.
_SIZ, _SIZ_DEPTH = b"\xff\x4f\xff\x51", 42
# The boxes before the codestream may contain a colour profile.
_JPEG2000_HEAD = 2**20


class GreyScale(NamedTuple):
    """The values of black and white in a decoded picture; white may be the smaller value.

    Attributes:
        black: value of black.
        white: value of white.
    """

    black: float
    white: float

    def to_8_bits(self, image: Image.Image) -> Image.Image:
        """Scales a decoded picture to mode L, or LA if one of its greys is transparent."""
        values = np.asarray(image).astype(np.float32)
        scaled = (values - np.float32(self.black)) * np.float32(255 / (self.white - self.black))
        grey = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        return grey


def find_scale(image: Image.Image, white: int | None = None) -> GreyScale | None:
    """Returns the values of black and white of an opened picture, from the header of its file.

    Args:
        image: opened image, not yet decoded.
        white: largest value in the file, which is white, or black if 0 is white; None = the
            largest value of its depth, or the maximum in its header (PGM and PPM).

    Returns:
        The scale of a grey picture with more than 8 bits; None where Pillow itself decodes to 8
        bits.

    Raises:
        ValueError: the value of white is unknown, or Pillow decodes the pixels wrongly. White is
            unknown if values are floats, signed or 32-bit integers, or if `white` is given for a
            picture of 16-bit colours, of which Pillow reads 8 bits.
    """
    _refuse_wrongly_decoded(image)
    if image.format == "PPM" and image.mode == "I":
        # Pillow scales the maximum in the header to 65535.
        return GreyScale(0, _MAX if white is None else white * _MAX / _ppm_maximum(image))
    if image.mode in ("I", "F"):
        raise ValueError(
            "its values have 32 bits, so the value of white is unknown; save it with 8 or 16 bits "
            "per channel"
        )
    tags = getattr(image, "tag_v2", {})
    if _SIGNED in np.ravel(tags.get(TiffImagePlugin.SAMPLEFORMAT, ())):
        raise ValueError(
            "its values are signed, so the value of white is unknown; save it with unsigned values"
        )
    if not image.mode.startswith("I;16"):
        if white is not None and has_16_bit_colours(image):
            raise ValueError(
                "data.white is for grey pictures, and only 8 of 16 bits are read of colours; scale "
                "its values up to 65535"
            )
        return None
    if bits := jpeg2000_bits(image):
        # Pillow shifts the values up to 16 bits.
        return GreyScale(0, (2**bits - 1 if white is None else white) << (16 - bits))
    bits = np.ravel(tags.get(TiffImagePlugin.BITSPERSAMPLE, 16))[0]
    largest = 2 ** int(bits) - 1 if white is None else white
    is_inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    return GreyScale(largest, 0) if is_inverted else GreyScale(0, largest)


def largest_of_16_bits(image: Image.Image) -> int:
    """Decodes an opened picture and returns its largest 16-bit value; 0 for other depths."""
    if has_16_bit_colours(image):
        if image.format == "PPM" and _ppm_maximum(image) != _MAX:
            return 0
        if image.mode not in ("RGB", "RGBA", "LA"):
            return 0
        colours = len(image.getbands()) - (image.getbands()[-1] == "A")
        return 257 * int(np.asarray(image)[..., :colours].max())
    scale = find_scale(image)
    is_ppm_of_16_bits = image.format != "PPM" or (image.mode == "I" and _ppm_maximum(image) == _MAX)
    if scale is None or max(scale) != _MAX or not is_ppm_of_16_bits:
        return 0
    return int(np.asarray(image).max())


def has_16_bit_colours(image: Image.Image) -> bool:
    """Returns whether an opened picture, not yet decoded, has several channels of 16 bits."""
    tile: Any = getattr(image, "tile", None)
    if not tile or len(image.getbands()) == 1:
        return False
    return ";16" in str(tile[0].args) or (image.format == "PPM" and _ppm_maximum(image) > 255)


def scale_transparency(image: Image.Image) -> None:
    """Scales the transparent colour of an opened PNG picture in the same way as its pixels.

    Pillow reads the colour as it is stored, but scales greys of 2 and 4 bits up to 8 bits, and
    colours of 16 bits down to 8.
    """
    transparent, tile = image.info.get("transparency"), getattr(image, "tile", None)
    raw_mode = str(tile[0].args) if image.format == "PNG" and tile else ""
    if isinstance(transparent, int) and raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = transparent * (85 if raw_mode == "L;2" else 17)
    elif isinstance(transparent, tuple) and raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def jpeg2000_bits(image: Image.Image) -> int:
    """Returns the bits of a channel of an opened JPEG 2000 picture; 0 for other formats.

    Pillow does not report them: they are in the marker SIZ (ISO/IEC 15444-1, A.5.1).
    """
    file: Any = getattr(image, "fp", None)
    if image.format != "JPEG2000" or file is None:
        return 0
    position = file.tell()
    file.seek(0)
    head = file.read(_JPEG2000_HEAD)
    file.seek(position)
    start = head.find(_SIZ)
    return (head[start + _SIZ_DEPTH] & 0x7F) + 1 if 0 <= start < len(head) - _SIZ_DEPTH else 0


def _refuse_wrongly_decoded(image: Image.Image) -> None:
    """Raises a ValueError for pictures that Pillow opens, but whose pixels it decodes wrongly."""
    if jpeg2000_bits(image) > 8 and not image.mode.startswith("I;16"):
        raise ValueError(
            f"its channels have {jpeg2000_bits(image)} bits, which cannot be decoded from JPEG "
            "2000; save it with 8 bits per channel, or as PNG"
        )
    tags = getattr(image, "tag_v2", {})
    is_planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == _PLANAR
    bits = np.max(np.ravel(tags.get(TiffImagePlugin.BITSPERSAMPLE, 8)))
    if is_planar and bits > 8 and len(image.getbands()) > 1 and not has_16_bit_colours(image):
        raise ValueError(
            f"its colours are stored in separate planes of {bits} bits, which cannot be decoded; "
            "save it with interleaved channels (planar configuration 1)"
        )


def _ppm_maximum(image: Image.Image) -> int:
    # Unless the maximum is 65535, it is the last argument of Pillow's decoder.
    tile: Any = getattr(image, "tile", None)
    arguments = tile[0].args
    return int(arguments[-1]) if isinstance(arguments, tuple) else _MAX
