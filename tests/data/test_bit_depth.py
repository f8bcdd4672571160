"""Greys of every depth and polarity have the value that the header of their file defines."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cfx_jax.config import DataConfig
from cfx_jax.data import UnreadableImageError, images, open_source
from cfx_jax.data.bit_depth import find_scale

WIDTH, HEIGHT = 24, 3
# Bits, whether 0 is white, and byte order of the TIFF files that Pillow does not open.
NOT_OPENED = {(12, True, "<"), (12, True, ">"), (12, False, ">"), (16, True, ">")}


def tiff(values, bits, is_inverted=False, order="<", extra=()):
    """An uncompressed grey TIFF file, which Pillow cannot write in these depths."""
    if bits == 16:
        body = values.astype(f"{order}u2").tobytes()
    else:
        text = "".join(f"{value:0{bits}b}" for value in values.ravel())
        body = int(text, 2).to_bytes(len(text) // 8, "big")
    tags = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: 0 if is_inverted else 1}
    tags |= {273: 0, 277: 1, 278: HEIGHT, 279: len(body), **dict(extra)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items())
    )
    magic = b"II" if order == "<" else b"MM"
    head = magic + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + body


def pgm(values, maximum, is_plain=False):
    head = f"P{2 if is_plain else 5}\n# a comment\n{WIDTH} {HEIGHT}\n{maximum}\n".encode()
    if is_plain:
        return head + " ".join(map(str, values.ravel())).encode()
    return head + values.astype(">u2" if maximum > 255 else "u1").tobytes()


def ramp(white):
    """Values from 0 to white."""
    line = np.rint(np.linspace(0, white, WIDTH)).astype(int)
    return np.tile(line, (HEIGHT, 1))


def decode(content, white=None):
    with images.reading("it"), Image.open(io.BytesIO(content)) as image:
        return np.asarray(images.to_rgb(image, white))


def assert_scaled(content, values, black, white, given=None):
    expected = np.clip(255 * (values - black) / (white - black), 0, 255)
    found = decode(content, given)
    assert found.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(found, expected[..., None].repeat(3, -1), atol=0.51)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_inverted", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_to_rgb_scales_tiff_by_its_header(bits, is_inverted, order):
    white = 2**bits - 1
    content = tiff(ramp(white), bits, is_inverted, order)
    black, white = (white, 0) if is_inverted else (0, white)
    if (bits, is_inverted, order) not in NOT_OPENED:
        assert_scaled(content, ramp(max(black, white)), black, white)
        return
    with pytest.raises(UnreadableImageError):
        decode(content)


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("maximum", [1, 15, 200, 255, 256, 1023, 4095, 65535])
def test_to_rgb_scales_pgm_by_its_maximum(maximum, is_plain):
    assert_scaled(pgm(ramp(maximum), maximum, is_plain), ramp(maximum), 0, maximum)


def test_to_rgb_scales_ppm_by_its_maximum():
    values = ramp(4095)[..., None].repeat(3, -1)
    content = b"P6 %d %d 4095\n" % (WIDTH, HEIGHT) + values.astype(">u2").tobytes()
    np.testing.assert_allclose(decode(content), 255 * values / 4095, atol=0.51)


@pytest.mark.parametrize(
    ("content", "black", "white"),
    [
        (tiff(ramp(4095), 16), 0, 1000),
        (tiff(ramp(4095), 12), 0, 1000),
        (tiff(ramp(4095), 16, is_inverted=True), 1000, 0),
        (pgm(ramp(4095), 65535), 0, 1000),
        # The value is that in the file, not that to which Pillow scales it.
        (pgm(ramp(4095), 4095), 0, 1000),
    ],
)
def test_to_rgb_takes_a_given_white(content, black, white):
    assert_scaled(content, ramp(4095), black, white, given=1000)


def test_to_rgb_keeps_8_bits_whatever_the_white():
    assert_scaled(tiff(ramp(255), 8), ramp(255), 0, 255, given=4095)


def test_to_rgb_refuses_signed_values():
    content = tiff(ramp(255), 8, extra={339: 2}.items())
    with pytest.raises(
        UnreadableImageError, match=r"its values are signed, so .* white is unknown"
    ):
        decode(content)


def test_to_rgb_shows_a_transparent_grey_of_16_bits_in_white():
    buffer = io.BytesIO()
    Image.fromarray(ramp(65535).astype(np.uint16)).save(buffer, "PNG", transparency=0)
    expected = np.rint(ramp(255))
    expected[:, 0] = 255
    np.testing.assert_allclose(decode(buffer.getvalue())[..., 0], expected, atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_to_rgb_refuses_an_image_without_an_opaque_pixel(mode):
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "PNG")
    with pytest.raises(UnreadableImageError, match=r"it: .*all its pixels are transparent; save"):
        decode(buffer.getvalue())
    image.putpixel((0, 0), (200, 0, 0, 1))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "PNG")
    assert decode(buffer.getvalue()).min() > 250


@pytest.mark.parametrize(
    ("brightest", "white"), [(200, 255), (1000, 1023), (4000, 4095), (16383, 16383)]
)
def test_open_source_warns_once_of_values_of_a_camera(tmp_path, log, brightest, white):
    (tmp_path / "a.png").write_bytes(b"")
    for name, value in {"b.tif": brightest, "c.tif": brightest // 2}.items():
        (tmp_path / name).write_bytes(tiff(ramp(value), 16))
    source = open_source(DataConfig("folder", str(tmp_path)))
    expected = f"brightest value seen is {brightest} of 65535; if white is {white}: "
    assert log().count(f"{expected}--config.data.white={white}") == 1
    assert np.asarray(source.decode(1)).max() < 65
    given = open_source(DataConfig("folder", str(tmp_path), white=white))
    assert np.asarray(given.decode(1)).max() == round(255 * brightest / white)
    assert log().count("brightest") == 1


@pytest.mark.parametrize(
    "content",
    [
        tiff(ramp(16384), 16),
        tiff(ramp(0), 16),
        tiff(ramp(20), 8),
        tiff(ramp(20), 12),
        pgm(ramp(20), 1023),
    ],
)
def test_open_source_does_not_warn_where_the_header_tells_white(tmp_path, log, content):
    (tmp_path / "a.tif").write_bytes(content)
    open_source(DataConfig("folder", str(tmp_path)))
    assert "brightest" not in log()


def test_open_source_warns_of_dark_colours_of_16_bits(tmp_path, log):
    tags = {256: 4, 257: 4, 258: 16, 259: 1, 262: 2, 273: 8 + 2 + 120 + 4, 277: 3, 278: 4, 279: 96}
    tags[284] = 1
    entries = [struct.pack("<HHIHH", t, 3, 1, v, 0) for t, v in sorted(tags.items()) if t != 258]
    offset = tags[273] + 96
    entries.insert(2, struct.pack("<HHII", 258, 3, 3, offset))
    body = np.full((4, 4, 3), 1023, "<u2").tobytes() + struct.pack("<HHH", 16, 16, 16)
    content = b"II" + struct.pack("<HIH", 42, 8, 10) + b"".join(entries) + bytes(4) + body
    (tmp_path / "a.tif").write_bytes(content)
    source = open_source(DataConfig("folder", str(tmp_path)))
    assert re.search("brightest value seen is .* scale them up to 65535", log())
    assert np.asarray(source.decode(0)).max() == 3
    source = open_source(DataConfig("folder", str(tmp_path), white=1023))
    with pytest.raises(UnreadableImageError, match=r"data\.white is for grey pictures"):
        source.decode(0)


def rgb_tiff(pixels, planar):
    """An uncompressed TIFF file of 16-bit colours `[H, W, 3]`, interleaved or in planes."""
    height, width = pixels.shape[:2]
    planes = [pixels] if planar == 1 else [pixels[..., channel] for channel in range(3)]
    # Count and offset of values that do not fit into an entry: depths, then the strips.
    size = height * width * 2 * (3 if planar == 1 else 1)
    tags = {256: (3, 1), 257: (3, 1), 258: (3, 3), 259: (3, 1), 262: (3, 1), 273: (4, len(planes)),
            277: (3, 1), 278: (3, 1), 279: (4, len(planes)), 284: (3, 1)}  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    offsets = [start + 32 + size * index for index in range(len(planes))]
    values = {256: width, 257: height, 258: start, 259: 1, 262: 2, 277: 3, 278: height, 284: planar}
    extra = struct.pack("<HHH", 16, 16, 16)
    values[273], values[279] = (offsets[0], size) if planar == 1 else (start + 6, start + 18)
    if planar == 2:
        extra += struct.pack("<III", *offsets) + struct.pack("<III", *[size] * 3)
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, values[tag]) for tag, (kind, count) in tags.items()
    )
    body = b"".join(plane.astype("<u2").tobytes() for plane in planes)
    return (
        b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + bytes(4) + extra.ljust(32) + body
    )


def test_to_rgb_refuses_separate_planes_of_16_bits():
    pixels = np.stack([ramp(65535), ramp(0), ramp(30000)], -1)
    np.testing.assert_allclose(decode(rgb_tiff(pixels, 1)), pixels / 257, atol=1)
    with pytest.raises(UnreadableImageError, match="separate planes of 16 bits, which cannot"):
        decode(rgb_tiff(pixels, 2))


def png(values, bits, colour, transparent):
    """A PNG file without filters, with a transparent grey or colour, as it is stored."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = []
    for row in values.reshape(HEIGHT, -1):
        text = "".join(f"{value:0{bits}b}" for value in row)
        rows.append(b"\0" + int(text, 2).to_bytes(len(text) // 8, "big"))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    key = struct.pack(f">{len(transparent)}H", *transparent)
    chunks = [(b"IHDR", head), (b"tRNS", key), (b"IDAT", zlib.compress(b"".join(rows)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in [*chunks, (b"IEND", b"")])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_to_rgb_shows_a_transparent_grey_of_a_png_in_white(bits):
    values = ramp(2**bits - 1)
    found = decode(png(values, bits, 0, [1]))[..., 0]
    expected = np.where(values == 1, 255, np.rint(255 * values / (2**bits - 1)))
    np.testing.assert_array_equal(found, expected)


def test_to_rgb_shows_a_transparent_colour_of_16_bits_in_white():
    values = np.stack([ramp(65535), ramp(65535), ramp(0)], -1)
    values[:, :4] = 20000, 40000, 60000
    found = decode(png(values, 16, 2, [20000, 40000, 60000]))
    assert (found[:, :4] == 255).all()
    np.testing.assert_allclose(found[:, 4:], values[:, 4:] / 257, atol=1)


def jpeg2000(mode, bits):
    """A JPEG 2000 file whose header states a depth that Pillow does not write."""
    buffer = io.BytesIO()
    Image.new(mode, (WIDTH, HEIGHT)).save(buffer, "JPEG2000", no_jp2=True)
    content = bytearray(buffer.getvalue())
    first = content.index(b"\xff\x4f\xff\x51") + 42
    for channel in range(len(mode) if mode != "I;16" else 1):
        content[first + 3 * channel] = bits - 1
    return bytes(content)


@pytest.mark.parametrize(("mode", "bits"), [("RGB", 12), ("RGBA", 16), ("LA", 12)])
def test_to_rgb_refuses_colours_of_many_bits_in_jpeg_2000(mode, bits):
    with pytest.raises(UnreadableImageError, match=f"channels have {bits} bits, which cannot be"):
        decode(jpeg2000(mode, bits))


def test_to_rgb_takes_the_depth_of_greys_from_jpeg_2000():
    for bits, given, white in [(12, None, 4095 << 4), (12, 1000, 1000 << 4), (16, None, 65535)]:
        with Image.open(io.BytesIO(jpeg2000("I;16", bits))) as image:
            assert find_scale(image, given) == (0, white)


def test_open_source_warns_of_dark_colours_in_ppm(tmp_path, log):
    pixels = np.stack([ramp(1000)] * 3, -1).astype(">u2")
    head = f"P6\n{WIDTH} {HEIGHT}\n"
    (tmp_path / "a.ppm").write_bytes(f"{head}65535\n".encode() + pixels.tobytes())
    open_source(DataConfig("folder", str(tmp_path)))
    assert log().count("brightest value seen is ") == 1
    given = open_source(DataConfig("folder", str(tmp_path), white=4095))
    with pytest.raises(UnreadableImageError, match=r"data\.white is for grey pictures"):
        given.decode(0)
