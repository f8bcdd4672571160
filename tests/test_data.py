"""Example sources and decoding, on real files of every kind a folder may hold."""

import csv
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cfx_jax import data
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UNKNOWN_LABEL, UnreadableImageError, fit, open_source

SMALL = (8, 8)


def random_image(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def open_folder(path, **options):
    return open_source(DataConfig(source="folder", path=str(path), **options))


def load_bytes(tmp_path, content, name="image.png", size=SMALL):
    (tmp_path / name).write_bytes(content)
    return open_folder(tmp_path).load(0, size, "stretch")


def write_manifest(folder, rows, header=("file", "label"), encoding="utf-8"):
    with (folder / "manifest.csv").open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows])


def png_header(width, height):
    """A PNG that promises so many pixels and holds none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 100) + b"IDAT"


def test_crop_covers_the_size_with_a_margin_and_cuts_the_centre():
    """A horizontal ramp of value = column: the cut-out is the centre, 7/8 of the short side."""
    ramp = Image.fromarray(np.tile(np.arange(240, dtype=np.uint8), (96, 1))).convert("RGB")
    result = 255 * fit(ramp, (84, 84), "crop")
    assert result.shape == (84, 84, 3)
    # 96 rows: scale 1, so pixels are copied, columns (240 - 84) / 2 = 78 to 161.
    np.testing.assert_allclose(result[..., 0], np.tile(np.arange(78, 162), (84, 1)), atol=1e-4)
    tall = fit(ramp.transpose(Image.Transpose.TRANSPOSE), (84, 84), "crop")
    np.testing.assert_allclose(255 * tall.transpose(1, 0, 2), result, atol=1e-4)


@pytest.mark.parametrize("size", [(224, 224), (64, 96), (300, 200)])
@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (37, 37)])
def test_crop_equals_resizing_the_short_side_and_cutting_the_centre(shape, size):
    # Pillow rounds and clips between its two passes, and which comes first depends on the sizes:
    # grey enough that overshoot is not clipped, equal up to two roundings.
    image = random_image(size=shape).point(lambda value: 64 + value // 2)
    scale = 256 / 224 * max(size[0] / shape[0], size[1] / shape[1])
    big = image.resize((round(shape[1] * scale), round(shape[0] * scale)), Image.Resampling.BICUBIC)
    left, top = (big.width - size[1]) // 2, (big.height - size[0]) // 2
    expected = np.asarray(big, np.float32)[top : top + size[0], left : left + size[1]]
    np.testing.assert_allclose(255 * fit(image, size, "crop"), expected, atol=2.001)
    assert np.abs(255 * fit(image, size, "crop") - expected).mean() < 0.5


def test_stretch_shows_the_whole_image():
    ramp = Image.fromarray(np.tile(np.arange(0, 240, dtype=np.uint8), (96, 1))).convert("RGB")
    result = 255 * fit(ramp, (32, 24), "stretch")
    assert result.shape == (32, 24, 3)
    np.testing.assert_allclose(
        result[:, 1:-1, 0], np.tile(np.arange(14.5, 230, 10), (32, 1)), atol=1
    )
    assert result[:, 0].max() < 10
    assert result[:, -1].min() > 230


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (5000, 1), (40, 30)])
def test_every_shape_of_image_fits(shape, resize):
    values = fit(random_image(size=shape), (16, 24), resize)
    assert values.shape == (16, 24, 3)
    assert values.dtype == np.float32
    assert 0.0 <= values.min() <= values.max() <= 1.0


def test_white_and_black_stay_white_and_black():
    for value in (0, 255):
        image = Image.new("RGB", (50, 70), (value,) * 3)
        np.testing.assert_array_equal(fit(image, (32, 32), "crop"), value / 255)


def test_bundled_photographs_have_stable_ids_and_labels():
    source = open_source(DataConfig())
    assert list(source.ids) == ["chelsea", "coffee", "rocket"]
    assert [source.label(i) for i in range(len(source))] == [285, 967, 657]
    for i in range(3):
        image = source.load(i, (32, 48), "crop")
        assert image.shape == (32, 48, 3)
        assert image.std() > 0.1


def test_folder_without_manifest_takes_all_images_by_name(tmp_path):
    names = ["b.png", "a.JPG", "deep/er/c.webp", "deep/a.jpeg", "z.bmp"]
    for seed, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG", "jpeg": "JPEG"}.get(name.split(".")[1].lower(), path.suffix[1:])
        path.write_bytes(encode(Image.new("RGB", (9, 9), (50 * seed, 0, 0)), kind))
    (tmp_path / "notes.txt").write_text("no image")
    source = open_folder(tmp_path)
    assert source.name == tmp_path.name
    assert list(source.ids) == ["a.JPG", "b.png", "deep/a.jpeg", "deep/er/c.webp", "z.bmp"]
    for i, name in enumerate(source.ids):
        assert source.label(i) == UNKNOWN_LABEL
        red = 255 * source.load(i, SMALL, "crop")[..., 0]
        np.testing.assert_allclose(red, 50 * names.index(name), atol=3)


def test_folder_with_manifest_follows_its_order_and_labels(tmp_path):
    (tmp_path / "n01").mkdir()
    for seed, name in enumerate(["n01/a.png", "b.png", "unlisted.png"]):
        (tmp_path / name).write_bytes(encode(Image.new("RGB", (9, 9), (50 * seed, 0, 0))))
    write_manifest(tmp_path, [("b.png", 7), ("n01/a.png", ""), ("gone.png", 3)])
    source = open_folder(tmp_path)
    assert list(source.ids) == ["b.png", "n01/a.png", "gone.png"]
    assert [source.label(i) for i in range(3)] == [7, UNKNOWN_LABEL, 3]
    np.testing.assert_allclose(255 * source.load(0, SMALL, "crop")[..., 0], 50, atol=1e-3)
    with pytest.raises(UnreadableImageError, match=r"gone\.png: FileNotFoundError"):
        source.load(2, SMALL, "crop")


def test_manifest_may_have_no_labels_or_come_from_a_spreadsheet(tmp_path):
    write_manifest(tmp_path, [("a.png",), ("b.png",)], header=("file",))
    source = open_folder(tmp_path)
    assert [source.label(i) for i in range(2)] == [UNKNOWN_LABEL] * 2
    write_manifest(tmp_path, [("a.png", 4)], encoding="utf-8-sig")
    assert open_folder(tmp_path).label(0) == 4


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (("path", "label"), [("a.png", 1)], "column `file`.*KeyError: 'file'"),
        (("file", "label"), [("a.png", "cat")], "column `label` of whole numbers.*'cat'"),
        (("file", "label"), [("a.png", "1.5")], r"'1\.5'"),
        (("file", "label"), [("a.png", -2)], "label below -1"),
        (("label", "file"), [(3,)], "no file"),
        (("file", "label"), [("a.png", 1), ("b.png", 2), ("a.png", 1)], "listed twice"),
        (("file", "label"), [], "holds no image"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path, header, rows, message):
    write_manifest(tmp_path, rows, header)
    with pytest.raises(ConfigError, match=message):
        open_folder(tmp_path)


def test_a_manifest_in_another_encoding_is_refused(tmp_path):
    write_manifest(tmp_path, [("käse.png", 1)], encoding="latin-1")
    with pytest.raises(ConfigError, match="UnicodeDecodeError"):
        open_folder(tmp_path)


@pytest.mark.parametrize("path", ["", "missing"])
def test_a_missing_folder_says_how_to_name_one(tmp_path, path):
    with pytest.raises(ConfigError, match=r"data\.path.*--config\.data\.path=DIR"):
        open_folder(path and tmp_path / path)


def test_an_empty_folder_says_what_it_needs(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ConfigError, match=r"holds no image.*\.jpg.*manifest\.csv"):
        open_folder(tmp_path)


def test_a_split_takes_the_rows_of_the_manifest_that_have_it(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encode(random_image()))
    rows = [("a.png", 3, "train"), ("b.png", 4, "heldout"), ("c.png", "", "train")]
    write_manifest(tmp_path, rows, header=("file", "label", "split"))
    source = open_folder(tmp_path, split="train")
    assert list(source.ids) == ["a.png", "c.png"]
    assert [source.label(i) for i in range(2)] == [3, UNKNOWN_LABEL]
    with pytest.raises(ConfigError, match="holds no image"):
        open_folder(tmp_path, split="test")
    write_manifest(tmp_path, [row[:2] for row in rows])
    with pytest.raises(ConfigError, match=r"column `split`.*KeyError"):
        open_folder(tmp_path, split="train")


def test_decode_keeps_the_size_and_the_pixels(tmp_path):
    image = random_image(size=(21, 34))
    (tmp_path / "a.png").write_bytes(encode(image))
    np.testing.assert_array_equal(open_folder(tmp_path).decode(0), image)


def test_max_examples_takes_the_first_ones(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encode(random_image()))
    assert list(open_folder(tmp_path, max_examples=2).ids) == ["a.png", "b.png"]
    assert len(open_folder(tmp_path, max_examples=9)) == 3


def test_the_fingerprint_follows_the_ids():
    source = open_source(DataConfig())
    assert source.fingerprint == open_source(DataConfig()).fingerprint
    assert source.fingerprint != open_source(DataConfig(max_examples=2)).fingerprint


def with_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


UNREADABLE = {
    "truncated.jpg": encode(random_image(), "JPEG")[:-200],
    "truncated_rotated.jpg": encode(random_image(), "JPEG", exif=with_orientation(6))[:-200],
    "truncated.png": encode(random_image())[:-200],
    "flipped_bits.png": encode(random_image())[:60] + bytes(100) + encode(random_image())[160:],
    "empty.png": b"",
    "zeros.jpg": bytes(1000),
    "text.jpg": b"<html>404 not found</html>",
    "header_only.png": png_header(20, 20),
}


@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_unreadable_images_are_errors_of_that_example(tmp_path, name):
    with pytest.raises(UnreadableImageError, match=rf"^{name}: \w+: \S+"):
        load_bytes(tmp_path, UNREADABLE[name], name)


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_a_huge_image_is_refused_by_its_header(tmp_path, side):
    """Decoding would fail for the missing pixels, with another message."""
    with pytest.raises(UnreadableImageError, match=r"huge\.png: .*(are too many|exceeds limit)"):
        load_bytes(tmp_path, png_header(side, side), "huge.png")


def test_sizes_that_pillow_warns_of_but_we_allow_are_read_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert load_bytes(tmp_path, encode(random_image())).shape == (*SMALL, 3)


def palette_image(image):
    """Palette with one transparency byte a colour, which Pillow warns of."""
    return encode(image.quantize(64), transparency=bytes(range(64)))


KINDS = {
    "grey.png": lambda image: encode(image.convert("L")),
    "grey_alpha.png": lambda image: encode(image.convert("LA")),
    "alpha.png": lambda image: encode(image.convert("RGBA")),
    "palette.png": palette_image,
    "bilevel.png": lambda image: encode(image.convert("1", dither=Image.Dither.NONE)),
    "cmyk.jpg": lambda image: encode(image.convert("CMYK"), "JPEG", quality=100),
    "grey.jpg": lambda image: encode(image.convert("L"), "JPEG", quality=100),
    "progressive.jpg": lambda image: encode(image, "JPEG", quality=100, progressive=True),
    "lossless.webp": lambda image: encode(image, "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_of_image_decodes_to_rgb(tmp_path, name):
    """Four flat quarters: black, white, and two greys that only the bilevel image cannot hold."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, 16:], pixels[16:, :16], pixels[16:, 16:] = 255, 64, 192
    result = load_bytes(tmp_path, KINDS[name](Image.fromarray(pixels)), name, (32, 32))
    assert result.shape == (32, 32, 3)
    assert result.dtype == np.float32
    expected = (pixels > 127) * 255.0 if name == "bilevel.png" else pixels
    np.testing.assert_allclose(255 * result, expected, atol=3)


def test_colours_are_rgb_not_bgr(tmp_path):
    result = load_bytes(tmp_path, encode(Image.new("RGB", (9, 9), (255, 128, 0))))
    np.testing.assert_allclose(255 * result[4, 4], (255, 128, 0), atol=1e-4)


def test_16_bit_grey_keeps_its_scale(tmp_path):
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    result = load_bytes(tmp_path, encode(Image.fromarray(values)), size=(32, 32))
    np.testing.assert_allclose(result, np.repeat(values[..., None] / 65535, 3, -1), atol=0.002)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (6, lambda x: np.rot90(x, -1)),
        (8, lambda x: np.rot90(x)),
    ],
)
def test_exif_orientation_is_respected(tmp_path, orientation, turn):
    image = random_image()
    content = encode(image, exif=with_orientation(orientation))
    expected = turn(np.asarray(image)) / 255.0
    result = load_bytes(tmp_path, content, size=expected.shape[:2])
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_damaged_exif_leaves_the_pixels_readable(tmp_path):
    exif = bytearray(with_orientation(6).tobytes())
    image = random_image()
    for content in (bytes(exif[:-6]), b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(exif[12:])):
        result = load_bytes(tmp_path, encode(image, "PNG", exif=content))
        assert np.isfinite(result).all()


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """An ImageNet-like TFDS dataset of five JPEGs whose red tells their label, one of them cut."""
    import tensorflow_datasets as tfds

    class TinyImagenet(tfds.core.GeneratorBasedBuilder):
        """Image, label and file name, as `imagenet2012` has them."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=1000),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"validation": self._generate_examples()}

        def _generate_examples(self):
            for label in range(5):
                content = encode(Image.new("RGB", (20, 30), (label * 50, 0, 0)), "JPEG")
                name = f"ILSVRC2012_val_{label}.JPEG"
                image = io.BytesIO(content[: 300 if label == 2 else None])
                yield name, {"image": image, "label": label, "file_name": name}

    folder = tmp_path_factory.mktemp("tfds")
    TinyImagenet(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def open_tfds(folder, **options):
    config = {"name": "tiny_imagenet", "split": "validation"} | options
    return open_source(DataConfig(source="tfds", path=str(folder), **config))


def test_a_tfds_dataset_is_read_record_by_record(tfds_dir):
    source = open_tfds(tfds_dir)
    assert list(source.ids) == [f"tiny_imagenet/1.0.0/validation/{i}" for i in range(5)]
    assert sorted(source.label(i) for i in range(5)) == [0, 1, 2, 3, 4]
    for i in range(5):
        if source.label(i) == 2:
            with pytest.raises(UnreadableImageError, match=f"tiny_imagenet/1.0.0/validation/{i}"):
                source.load(i, SMALL, "crop")
        else:
            image = source.load(i, (16, 8), "crop")
            assert image.shape == (16, 8, 3)
            np.testing.assert_allclose(255 * image[..., 0], source.label(i) * 50, atol=3)


@pytest.mark.parametrize("split", ["validation[2:]", "validation[80%:]+validation[:1]"])
def test_a_slice_of_a_split_keeps_ids_and_labels(tfds_dir, split):
    whole = open_tfds(tfds_dir)
    part = open_tfds(tfds_dir, split=split)
    expected = [2, 3, 4] if split == "validation[2:]" else [4, 0]
    assert list(part.ids) == [whole.ids[i] for i in expected]
    assert [part.label(i) for i in range(len(part))] == [whole.label(i) for i in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "imagenet2012"}, r"'imagenet2012', split 'validation', cannot be opened"),
        ({"name": "no_such_dataset"}, r"TFDS said: DatasetNotFoundError"),
        ({"split": "train"}, r"Unknown split 'train'.*'validation'"),
        ({"name": "", "split": ""}, r"TFDS said: ValueError"),
    ],
)
def test_a_missing_tfds_dataset_says_how_to_prepare_it(tfds_dir, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        open_tfds(tfds_dir, **options)
    assert "file_format='array_record').download_and_prepare()" in str(error.value)
    assert f"data_dir='{tfds_dir}'" in str(error.value)
    assert "--config.data.source=folder --config.data.path=DIR" in str(error.value)


def test_reading_tfds_does_not_need_tensorflow(tfds_dir, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    source = open_tfds(tfds_dir)
    assert source.label(0) in range(5)
    assert data.UNKNOWN_LABEL not in [source.label(i) for i in range(len(source))]
