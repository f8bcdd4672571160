"""Every kind of image file decodes or is refused, and boxes move with the pixels."""

import io
import os
import pathlib
import struct
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cfx_jax.classifiers import INTERPOLATIONS
from cfx_jax.commands.infill_folder import infill_folder
from cfx_jax.config import RESIZES, DataConfig
from cfx_jax.data import images, load_units, open_source
from cfx_jax.data.images import (
    Resize,
    UnreadableImageError,
    fit,
    fit_boxes,
    to_floats,
    to_grey,
    to_rgb,
)
from cfx_jax.registry import load_generator
from cfx_jax.train import _log, classifier
from cfx_jax.train.config import TrainConfig
from cfx_jax.train.crops import Crops
from cfx_jax.weights.architectures import ARCHITECTURES

SIZES = [(224, 224), (64, 96), (300, 200)]
SHAPES = [(300, 451), (451, 300), (200, 200), (37, 37)]


def random_image(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(content):
    with images.reading("it"), Image.open(io.BytesIO(content)) as image:
        return images.to_rgb(image)


def png(header, rows):
    """A PNG of an IHDR chunk and filtered rows: Pillow writes neither each kind nor a wrong one."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *header)), (b"IDAT", zlib.compress(rows))]
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in [*parts, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_fit_crop_cuts_the_centre_with_a_margin():
    """A horizontal ramp of value = column: the cut-out is the centre, 7/8 of the short side."""
    ramp = Image.fromarray(np.tile(np.arange(240, dtype=np.uint8), (96, 1))).convert("RGB")
    result = fit(ramp, (84, 84), "crop")
    assert result.shape == (84, 84, 3)
    # 96 rows: scale 1, so pixels are copied, columns (240 - 84) / 2 = 78 to 161.
    np.testing.assert_array_equal(result[..., 0], np.tile(np.arange(78, 162), (84, 1)))
    tall = fit(ramp.transpose(Image.Transpose.TRANSPOSE), (84, 84), "crop")
    np.testing.assert_array_equal(tall.transpose(1, 0, 2), result)


def test_fit_cover_cuts_the_centre_without_a_margin():
    image = random_image(size=(96, 240))
    expected = np.asarray(image)[:, 72:168]
    np.testing.assert_array_equal(fit(image, (96, 96), "cover"), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (37, 37)])
@pytest.mark.parametrize(("resize", "margin"), [("crop", 256 / 224), ("cover", 1.0)])
def test_fit_crop_equals_resize_then_centre_crop(shape, size, resize, margin):
    # Pillow rounds and clips between its two passes, and which comes first depends on the sizes:
    # grey enough that overshoot is not clipped, equal up to two roundings.
    image = random_image(size=shape).point(lambda value: 64 + value // 2)
    scale = margin * max(size[0] / shape[0], size[1] / shape[1])
    big = image.resize((round(shape[1] * scale), round(shape[0] * scale)), Image.Resampling.BICUBIC)
    left, top = (big.width - size[1]) // 2, (big.height - size[0]) // 2
    expected = np.asarray(big, np.float32)[top : top + size[0], left : left + size[1]]
    np.testing.assert_allclose(fit(image, size, resize), expected, atol=2.001)
    assert np.abs(fit(image, size, resize) - expected).mean() < 0.5


@pytest.mark.parametrize("crop", [1.0, 0.95, 0.5])
def test_fit_crop_share_is_of_the_side(crop):
    image = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1))).convert("RGB")
    result = fit(image, (100, 100), Resize("crop", crop))[..., 0].astype(float)
    assert result[0, -1] - result[0, 0] == pytest.approx(198 * crop, abs=2)
    assert result.mean() == pytest.approx(99.5, abs=1.01)  # half a pixel where odd
    boxes = fit_boxes(np.array([[0, 0, 200, 200]]), (200, 200), (100, 100), Resize("crop", crop))
    assert boxes[0, 2] - boxes[0, 0] == pytest.approx(100 / crop, abs=1)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_fit_scales_with_the_requested_filter(interpolation):
    image = random_image(size=(60, 90))
    expected = image.resize((30, 20), Image.Resampling[interpolation.upper()])
    result = fit(image, (20, 30), Resize("stretch", interpolation=interpolation))
    np.testing.assert_array_equal(result, expected)
    usual = fit(image, (20, 30), "stretch")
    assert (result == usual).all() == (interpolation == "bicubic")


def test_fit_stretch_shows_the_whole_image():
    ramp = Image.fromarray(np.tile(np.arange(0, 240, dtype=np.uint8), (96, 1))).convert("RGB")
    result = fit(ramp, (32, 24), "stretch")
    assert result.shape == (32, 24, 3)
    np.testing.assert_allclose(
        result[:, 1:-1, 0], np.tile(np.arange(14.5, 230, 10), (32, 1)), atol=1
    )
    assert result[:, 0].max() < 10
    assert result[:, -1].min() > 230


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (5000, 1), (40, 30), (223, 4999)])
def test_fit_accepts_every_shape(shape, resize):
    for image, channels in ((random_image(size=shape), 3), (to_grey(random_image(size=shape)), 1)):
        pixels = fit(image, (16, 24), resize)
        assert pixels.shape == (16, 24, channels)
        assert pixels.dtype == np.uint8


def test_fit_keeps_white_and_black():
    for value in (0, 255):
        image = Image.new("RGB", (50, 70), (value,) * 3)
        np.testing.assert_array_equal(fit(image, (32, 32), "crop"), value)


def test_to_floats_gives_the_same_bits_on_host_and_device():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = pixels.astype(np.float32) / np.float32(255)
    on_host, on_device = to_floats(pixels), jax.jit(to_floats)(pixels)
    assert type(on_host) is np.ndarray
    for floats in (on_host, on_device, to_floats(jnp.asarray(pixels))):
        assert floats.dtype == np.float32
        np.testing.assert_array_equal(floats, expected)
    with pytest.raises(ValueError, match="pixels are float32; expected uint8"):
        to_floats(expected)


@pytest.fixture
def coloured(tmp_path):
    """One image of one colour, whose mean is 83, whose luma is 89 and whose red is 200."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 40), (200, 50, 0)).save(tmp_path / "images/a.png")
    (tmp_path / "images/manifest.csv").write_text("file,label\na.png,3\n")
    return DataConfig(source="folder", path=str(tmp_path / "images"))


def of_a_run(config):
    [examples] = load_units(open_source(config), [(0, range(1))], (28, 28, 1), "crop")
    return examples.pixels


def of_the_training_of_a_classifier(config):
    return classifier._read("data", config, ARCHITECTURES["mnist_cnn"], 10).pixels


def of_the_training_of_a_generator(config):
    return Crops(open_source(config), 28, 1, seed=0).crop(0, 0)


def of_its_measurement(config):
    return 255 * _log.Heldout(TrainConfig(model="vae_digits", heldout=config))._images


def of_infill_folder(config):
    folder = pathlib.Path(config.path)
    mask = folder.parent / "masks"
    mask.mkdir()
    Image.new("L", (40, 40), 255).save(mask / "a.png")
    assert infill_folder(load_generator("vae_digits"), folder, mask, folder.parent) == []
    with Image.open(folder.parent / "infilled/a.png") as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    "path",
    [
        of_a_run,
        of_the_training_of_a_classifier,
        of_the_training_of_a_generator,
        of_its_measurement,
        of_infill_folder,
    ],
)
def test_to_grey_of_one_colour_is_the_same_on_every_path(path, coloured, monkeypatch):
    monkeypatch.setattr(_log, "heldout_masks", lambda count, size: {})
    np.testing.assert_allclose(path(coloured), round(0.299 * 200 + 0.587 * 50), rtol=1e-6)


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_to_grey_keeps_a_grey_image(value):
    grey = Image.new("L", (3, 2), value)
    np.testing.assert_array_equal(to_grey(to_rgb(grey)), value)


@pytest.mark.parametrize(
    ("image_size", "size", "resize", "expected"),
    [
        # Half the size, 50 columns cut off on the left.
        ((100, 300), (50, 50), "cover", [-40, 10, 10, 45]),
        ((100, 300), (50, 50), "stretch", [10 / 3, 10, 20, 45]),
        # 98 * 256 / 224 = 112: the size it has, 63 columns and 7 rows cut off.
        ((112, 224), (98, 98), "crop", [20 - 63, 20 - 7, 120 - 63, 90 - 7]),
        ((112, 112), (196, 196), "crop", [40 - 14, 40 - 14, 240 - 14, 180 - 14]),
        ((100, 100), (300, 200), "stretch", [40, 60, 240, 270]),
        ((100, 100), (300, 200), "cover", [60 - 50, 60, 360 - 50, 270]),
    ],
)
def test_fit_boxes_equals_a_hand_computation(image_size, size, resize, expected):
    result = fit_boxes(np.array([[20, 20, 120, 90]]), image_size, size, resize)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [expected], rtol=1e-6)


def extent(image):
    """The box of a rectangle of 1 on 0, by centre of mass and mass: finer than a pixel."""
    y, x = ((image * (place + 0.5)).sum() / image.sum() for place in np.indices(image.shape))
    width, height = image[int(y)].sum(), image[:, int(x)].sum()
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_fit_boxes_follows_a_painted_rectangle(shape, size, resize):
    height, width = shape
    box = [int(0.4 * width), int(0.4 * height), int(0.65 * width), int(0.6 * height)]
    image = Image.new("RGB", (width, height), (64,) * 3)
    image.paste((192,) * 3, box)
    boxes = fit_boxes(np.array([box, box]), shape, size, resize)
    assert boxes.shape == (2, 4)
    # Not black and white, where what the filter overshoots would be clipped.
    found = extent((np.float32(fit(image, size, resize)[..., 0]) - 64) / 128)
    np.testing.assert_allclose(boxes, [found] * 2, atol=0.15)


def test_fit_boxes_keeps_none_and_refuses_another_shape():
    assert fit_boxes(np.zeros((0, 4)), (30, 40), (8, 8), "crop").shape == (0, 4)
    for shape in [(4,), (2, 5), (1, 1, 4)]:
        with pytest.raises(ValueError, match=r"boxes have shape .*expected \[k, 4\]"):
            fit_boxes(np.zeros(shape), (30, 40), (8, 8), "crop")


def test_fit_refuses_an_unknown_resize_method():
    with pytest.raises(ValueError, match="resize is 'pad'; expected crop, cover or stretch"):
        fit(random_image(), (8, 8), "pad")


UNREADABLE = {
    "truncated jpeg": encode(random_image(), "JPEG")[:-200],
    "truncated rotated jpeg": encode(random_image(), "JPEG", exif=with_orientation(6))[:-200],
    "truncated png": encode(random_image())[:-200],
    "truncated webp": encode(random_image(), "WEBP")[:-200],
    "flipped bits": encode(random_image())[:60] + bytes(100) + encode(random_image())[160:],
    "empty": b"",
    "zeros": bytes(1000),
    "text": b"<html>404 not found</html>",
    "header only": png((20, 20, 8, 2, 0, 0, 0), b"")[:41],
    "no pixels": png((0, 20, 8, 2, 0, 0, 0), b"\0"),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_decode_refuses_data_that_is_no_image(content):
    with pytest.raises(UnreadableImageError, match=r"^it: \w+: \S+"):
        decode(content)


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_decode_refuses_a_huge_image_by_its_header(side):
    """Decoding would fail for the missing pixels, with another message."""
    with pytest.raises(
        UnreadableImageError, match=r"it: .*(are more than 100,000,000|exceeds limit)"
    ):
        decode(png((side, side, 8, 2, 0, 0, 0), b""))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1200, (40, 30)), (1199, (20, 15)), (299, (10, 8)), (79, (5, 4)), (20, (5, 4))],
)
def test_decode_reduces_a_jpeg_beyond_the_limit(monkeypatch, limit, expected):
    monkeypatch.setattr(images, "_MAX_PIXELS", limit)
    image = Image.new("RGB", (30, 40), (200, 50, 0))
    result = decode(encode(image, "JPEG", quality=100, exif=with_orientation(6)))
    assert result.size == expected
    np.testing.assert_allclose(result, np.broadcast_to((200, 50, 0), (*expected[::-1], 3)), atol=2)
    for content in (encode(image, "JPEG"), encode(image)):
        monkeypatch.setattr(images, "_MAX_PIXELS", 19)
        with pytest.raises(UnreadableImageError, match=r"30 x 40 pixels .* only JPEG files can be"):
            decode(content)


def test_open_file_reads_a_jpeg_beyond_the_limit_of_pillow(tmp_path, monkeypatch):
    """A 200-megapixel phone photograph is read; Pillow still refuses other formats of that size."""
    for name in ("a.jpg", "b.png"):
        random_image().save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    monkeypatch.setattr(images, "_MAX_PIXELS", 1000)
    with images.reading("it"), images.open_file(tmp_path / "a.jpg") as image:
        assert images.to_rgb(image).size == (15, 20)
    with pytest.raises(UnreadableImageError, match="exceeds limit"), images.reading("it"):
        images.open_file(tmp_path / "b.png")


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_decode_refuses_values_without_a_known_white(dtype):
    """Pillow would clip them to 0 to 255: floats in [0, 1] would be a black image."""
    content = encode(Image.fromarray(np.ones((5, 7), dtype)), "TIFF")
    with pytest.raises(UnreadableImageError, match="32 bits, so the value of white is unknown"):
        decode(content)


def test_to_rgb_does_not_copy_rgb_pixels():
    """A second copy of the largest image that is allowed takes 400 MB."""
    with images.reading("it"), Image.open(io.BytesIO(encode(random_image(), "JPEG"))) as image:
        assert images.to_rgb(image) is image


def test_decode_silences_size_warnings_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode(encode(random_image())).size == (30, 40)


def test_reading_restores_warnings_after_the_last_thread():
    """The threads overlap in the order in which filters saved by each are restored wrongly."""
    palette = Image.open(io.BytesIO(encode(random_image().quantize(4), transparency=bytes(4))))
    palette.load()
    before = list(warnings.filters)
    first, second = images.reading("first"), images.reading("second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    palette.convert("RGB")  # Pillow warns, and here warnings are errors.
    second.__exit__(None, None, None)
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="Transparency"):
        palette.convert("RGB")


KINDS = {
    "grey": lambda image: encode(image.convert("L")),
    "grey with alpha": lambda image: encode(image.convert("LA")),
    "alpha": lambda image: encode(image.convert("RGBA")),
    "palette": lambda image: encode(image.quantize(64)),
    "bilevel": lambda image: encode(image.convert("1", dither=Image.Dither.NONE)),
    "bmp": lambda image: encode(image, "BMP"),
    "cmyk jpeg": lambda image: encode(image.convert("CMYK"), "JPEG", quality=100),
    "grey jpeg": lambda image: encode(image.convert("L"), "JPEG", quality=100),
    "progressive jpeg": lambda image: encode(image, "JPEG", quality=100, progressive=True),
    "two pictures in a jpeg": lambda image: encode(image, "MPO", quality=100, **then_white(image)),
    "lossless webp": lambda image: encode(image, "WEBP", lossless=True),
    "animated webp": lambda image: encode(image, "WEBP", lossless=True, **then_white(image)),
    "animated png": lambda image: encode(image, **then_white(image)),
    "animated gif": lambda image: encode(image, "GIF", **then_white(image)),
    "tiff of two pages": lambda image: encode(image, "TIFF", **then_white(image)),
    "16-bit tiff": lambda image: encode(
        Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257), "TIFF"
    ),
    "lossless avif": lambda image: encode(image, "AVIF", quality=100, subsampling="4:4:4"),
    "jpeg 2000": lambda image: encode(image, "JPEG2000"),
    "ppm": lambda image: encode(image, "PPM"),
}


def then_white(image):
    """Options that make an animation whose second frame is white."""
    return {"save_all": True, "append_images": [Image.new("RGB", image.size, "white")]}


@pytest.mark.parametrize("kind", KINDS)
def test_decode_converts_every_image_mode_to_rgb(kind):
    """Four flat quarters: black, white, and two greys that only the bilevel image cannot hold."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, 16:], pixels[16:, :16], pixels[16:, 16:] = 255, 64, 192
    result = decode(KINDS[kind](Image.fromarray(pixels)))
    assert result.mode == "RGB"
    expected = (pixels > 127) * 255.0 if kind == "bilevel" else pixels
    np.testing.assert_allclose(np.asarray(result), expected, atol=3)
    assert fit(result, (8, 8), "stretch").shape == (8, 8, 3)


def test_decode_gives_rgb_not_bgr():
    result = decode(encode(Image.new("RGB", (9, 9), (255, 128, 0))))
    assert result.getpixel((4, 4)) == (255, 128, 0)


def test_decode_keeps_the_scale_of_16_bit_grey():
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    result = np.asarray(decode(encode(Image.fromarray(values))))
    np.testing.assert_array_equal(result, np.round(values / 257)[..., None].repeat(3, -1))


def test_decode_keeps_the_scale_of_16_bit_colours():
    values = np.random.default_rng(0).integers(0, 65536, (7, 5, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    result = np.asarray(decode(png((5, 7, 16, 2, 0, 0, 0), rows)))
    np.testing.assert_allclose(result, values / 257.0, atol=1)


def palette_with_alpha():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 100])
    image.putdata([0, 1])
    return encode(image, transparency=bytes([255, 51]))


def colour_key():
    image = Image.new("RGB", (2, 1), (200, 0, 0))
    image.putpixel((1, 0), (0, 0, 100))
    return encode(image, transparency=(0, 0, 100))


def rgba(mode):
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 100, 51))
    return encode(image.convert(mode))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # A fifth of the colour over four fifths of white.
        (rgba("RGBA"), [(200, 0, 0), (204, 204, 224)]),
        (palette_with_alpha(), [(200, 0, 0), (204, 204, 224)]),
        (colour_key(), [(200, 0, 0), (255, 255, 255)]),
        # Luminance of these colours: 60 and 11.
        (rgba("LA"), [(60, 60, 60), (206, 206, 206)]),
    ],
    ids=["alpha", "palette", "colour key", "grey"],
)
def test_decode_shows_transparent_parts_in_white(content, expected):
    np.testing.assert_allclose(np.asarray(decode(content))[0], expected, atol=1)


TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_decode_applies_the_exif_orientation(orientation):
    image = random_image()
    result = decode(encode(image, exif=with_orientation(orientation)))
    np.testing.assert_array_equal(result, TURNS[orientation](np.asarray(image)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [*TURNS, 0, 9])
def test_upright_boxes_turn_with_the_image(orientation, kind):
    """Each box has a painted rectangle, which must lie where the box has moved."""
    stored = Image.new("RGB", (40, 25))
    boxes = np.array([[4, 5, 20, 10], [30, 15, 40, 25]])
    for box, colour in zip(boxes, [(255, 0, 0), (0, 255, 0)], strict=True):
        stored.paste(colour, box.tolist())
    content = encode(stored, kind, exif=with_orientation(orientation))
    with Image.open(io.BytesIO(content)) as image:
        moved = images.upright_boxes(boxes / [40, 25, 40, 25], image)
    upright = decode(content)
    found = [upright.getchannel(channel).getbbox() for channel in "RG"]
    np.testing.assert_allclose(moved, found, atol=1e-4)
    assert moved.dtype == np.float32


def test_decode_ignores_damaged_exif():
    exif = bytearray(with_orientation(6).tobytes())
    image = random_image()
    for metadata in (bytes(exif[:-6]), b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(exif[12:])):
        content = encode(image, "PNG", exif=metadata)
        assert np.asarray(decode(content)).size == np.asarray(image).size
        with images.reading("it"), Image.open(io.BytesIO(content)) as opened:
            assert images.upright_boxes(np.ones((1, 4)), opened).shape == (1, 4)


def make_link(path):
    path.symlink_to("nowhere.png")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "ValueError: is not a file"),
        (os.mkdir, "ValueError: is not a file"),
        (make_link, "FileNotFoundError"),
        (lambda path: path.write_bytes(b""), "UnidentifiedImageError"),
    ],
    ids=["pipe", "folder", "broken link", "empty file"],
)
def test_open_file_refuses_a_non_file(tmp_path, make, reason):
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(UnreadableImageError, match=rf"^x\.jpg: {reason}"), images.reading("x.jpg"):
        images.open_file(path)


def test_open_file_follows_a_link(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(random_image()))
    (tmp_path / "b.png").symlink_to("a.png")
    with images.open_file(tmp_path / "b.png") as image:
        np.testing.assert_array_equal(images.to_rgb(image), random_image())
