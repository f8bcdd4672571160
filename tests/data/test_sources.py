"""Example sources, on real folders, archives and TFDS datasets."""

import concurrent.futures
import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from tensorboardX.record_writer import RecordWriter

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UNKNOWN_LABEL, open_source
from cfx_jax.data.images import UnreadableImageError

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


def write_manifest(folder, rows, header=("file", "label"), encoding="utf-8"):
    with (folder / "manifest.csv").open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows])


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


BAD = {
    "cut.jpg": encode(random_image(), "JPEG")[:-200],
    "empty.png": b"",
    "text.jpg": b"<html>404 not found</html>",
}


def test_a_bad_file_is_an_error_of_that_example_only(tmp_path):
    for name, content in BAD.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    (tmp_path / "good.png").write_bytes(encode(random_image()))
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "inside.png").write_bytes(encode(random_image()))
    source = open_folder(tmp_path)
    good = {"good.png", "folder.jpg/inside.png"}
    assert set(source.ids) == {*BAD, "pipe.jpg", "link.jpg"} | good
    for index, name in enumerate(source.ids):
        if name in good:
            assert source.load(index, SMALL, "crop").shape == (*SMALL, 3)
        else:
            with pytest.raises(UnreadableImageError, match=rf"^{name}: \w+: \S+"):
                source.load(index, SMALL, "crop")


def test_a_folder_in_a_manifest_is_unreadable(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    write_manifest(tmp_path, [("x.jpg", 1)])
    with pytest.raises(UnreadableImageError, match=r"x\.jpg: ValueError: is not a file"):
        open_folder(tmp_path).load(0, SMALL, "crop")


def test_classes_of_sub_folders_are_numbered_by_name(tmp_path):
    """As in ImageNet; an empty class keeps its number, a hidden folder has none."""
    files = ["n02/b.png", "n01/z.JPEG", "n02/a.png", "n10/deep/c.png", ".cache/x.png"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encode(random_image()))
    (tmp_path / "n03").mkdir()
    (tmp_path / "n11").symlink_to(tmp_path / "n01")
    (tmp_path / "notes.txt").write_text("no image")
    source = open_folder(tmp_path, class_folders=True)
    assert {name: source.label(i) for i, name in enumerate(source.ids)} == {
        "n01/z.JPEG": 0, "n02/a.png": 1, "n02/b.png": 1, "n10/deep/c.png": 3, "n11/z.JPEG": 4,
    }  # fmt: skip
    assert list(source.ids) == sorted(source.ids)
    assert source.load(3, SMALL, "cover").shape == (*SMALL, 3)
    assert source.boxes(0).shape == (0, 4)
    # The same files, without classes.
    assert set(open_folder(tmp_path).ids) == {*files}


def test_class_folders_beside_other_classes_are_refused(tmp_path):
    (tmp_path / "n01").mkdir()
    with pytest.raises(ConfigError, match="holds no image"):
        open_folder(tmp_path, class_folders=True)
    (tmp_path / "n01" / "a.png").write_bytes(encode(random_image()))
    (tmp_path / "b.png").write_bytes(encode(random_image()))
    with pytest.raises(ConfigError, match=r"beside its sub-folders, such as 'b\.png'; expected"):
        open_folder(tmp_path, class_folders=True)
    (tmp_path / "b.png").unlink()
    write_manifest(tmp_path, [("n01/a.png", 3)])
    with pytest.raises(
        ConfigError, match=r"has a manifest\.csv.*remove it or --config\.data\.class"
    ):
        open_folder(tmp_path, class_folders=True)


def test_boxes_come_from_the_manifest(tmp_path):
    texts = ["", "1 2 30 4.5", " 0 0 5 5 ;  6 7 8 9;", "-3 0 4 4"]
    rows = [(f"{i}.png", text) for i, text in enumerate(texts)]
    write_manifest(tmp_path, rows, header=("file", "boxes"))
    source = open_folder(tmp_path)
    expected = [[], [[1, 2, 30, 4.5]], [[0, 0, 5, 5], [6, 7, 8, 9]], [[-3, 0, 4, 4]]]
    for index, boxes in enumerate(expected):
        result = source.boxes(index)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, np.reshape(boxes, (-1, 4)))
        assert source.label(index) == UNKNOWN_LABEL


@pytest.mark.parametrize(
    "text",
    ["1 2 3", "1 2 3 4 5", "1,2,3,4", "1 2 3 x", "5 0 4 9", "0 5 9 4", "0 0 nan 4", "0 0 inf 4"],
)
def test_bad_boxes_in_a_manifest_are_refused(tmp_path, text):
    write_manifest(tmp_path, [("a.png", text)], header=("file", "boxes"))
    with pytest.raises(ConfigError, match=rf"column `boxes` such as .*{text.split()[-1]}"):
        open_folder(tmp_path)


@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_are_fitted_without_decoding(tmp_path, monkeypatch, orientation):
    """The right half of an upright image, whichever way it is stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    width, height = upright = (40, 20)
    stored = upright if orientation == 1 else upright[::-1]
    Image.new("RGB", stored).save(tmp_path / "a.png", exif=exif)
    write_manifest(tmp_path, [("a.png", f"{width / 2} 0 {width} {height}")], ("file", "boxes"))
    source = open_source(DataConfig("folder", str(tmp_path)))
    monkeypatch.setattr("cfx_jax.data.images.to_rgb", None)
    expected = [[5.0, 0.0, 10.0, 10.0]]
    np.testing.assert_allclose(source.fitted_boxes(0, (10, 10), "stretch"), expected)


def test_sources_without_boxes_have_none(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(random_image()))
    write_manifest(tmp_path, [("a.png", 1)])
    for source in (open_source(DataConfig()), open_folder(tmp_path)):
        assert source.boxes(0).shape == (0, 4)
        assert source.boxes(0).dtype == np.float32


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 7, 3), np.uint8)


def open_npz(folder, split="", **arrays):
    np.savez(folder / "digits.npz", **arrays)
    return open_source(DataConfig(source="npz", path=str(folder / "digits.npz"), split=split))


def test_arrays_are_images_with_labels_and_ids(tmp_path):
    labels = np.arange(11, -1, -1).astype(np.uint8)
    names = np.array([f"café {i}" for i in range(12)])
    source = open_npz(tmp_path, images=PIXELS, labels=labels, ids=names)
    assert source.name == "digits"
    assert list(source.ids) == list(names)
    assert all(type(name) is str for name in source.ids)
    assert [source.label(i) for i in range(12)] == list(range(11, -1, -1))
    for i in range(12):
        np.testing.assert_array_equal(source.decode(i), PIXELS[i])
        assert source.boxes(i).shape == (0, 4)


@pytest.mark.parametrize("trailing", [(), (1,)])
def test_grey_arrays_become_rgb(tmp_path, trailing):
    source = open_npz(tmp_path, images=PIXELS[..., 0].reshape(12, 5, 7, *trailing))
    assert list(source.ids)[:2] == ["00", "01"]
    assert list(source.ids)[-1] == "11"
    assert source.label(0) == UNKNOWN_LABEL
    np.testing.assert_array_equal(source.decode(3), PIXELS[3, ..., :1].repeat(3, -1))


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("x", "y")])
@pytest.mark.parametrize("split", ["", "test"])
def test_a_split_chooses_among_the_arrays(tmp_path, images, labels, split):
    ending = split and f"_{split}"
    arrays = {
        f"{images}_train": PIXELS, f"{labels}_train": np.arange(12),
        f"{images}{ending}": PIXELS[4:], f"{labels}{ending}": np.arange(4, 12),
    }  # fmt: skip
    source = open_npz(tmp_path, split, **arrays)
    assert len(source) == 8
    assert source.name == ("digits/test" if split else "digits")
    assert [source.label(i) for i in range(8)] == list(range(4, 12))
    np.testing.assert_array_equal(source.decode(0), PIXELS[4])


@pytest.mark.parametrize(
    ("split", "arrays", "message"),
    [
        ("", {"x_train": PIXELS}, "expected an array `images` or `x`; it has x_train"),
        ("val", {"x_train": PIXELS}, "`images_val` or `x_val`; it has x_train"),
        ("", {}, "it has none"),
        ("", {"images": PIXELS / 255}, r"expected uint8 \[N, H, W\].*got float64 \[12, 5, 7, 3\]"),
        ("", {"images": PIXELS[..., :2]}, r"got uint8 \[12, 5, 7, 2\]"),
        ("", {"images": PIXELS[0, 0]}, r"got uint8 \[7, 3\]"),
        ("", {"images": np.uint8(3)}, r"got uint8 \[\]"),
        ("", {"images": PIXELS[:, :0]}, r"got uint8 \[12, 0, 7, 3\]"),
        ("", {"images": PIXELS[:0]}, "holds no image"),
        ("", {"images": PIXELS, "labels": np.ones(12)}, r"labels: expected.*float64 \[12\]"),
        ("", {"images": PIXELS, "y": np.arange(11)}, r"integers .*\[12\]; got int64 \[11\]"),
        ("", {"images": PIXELS, "y": np.zeros((12, 1), int)}, r"got int64 \[12, 1\]"),
        ("", {"images": PIXELS, "labels": np.full(12, -2)}, "integers of at least -1"),
        ("", {"images": PIXELS, "ids": np.arange(12)}, r"ids: expected text, \[12\].*int64 \[12\]"),
        ("", {"images": PIXELS, "ids": np.array(["a"] * 12)}, "each its own"),
        ("", {"images": PIXELS, "ids": np.array(["a", "b"])}, r"got <U1 \[2\]"),
        ("", {"images": np.array([{}, "pickled"])}, "Object arrays cannot be loaded"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_as_expected_are_refused(tmp_path, split, arrays, message):
    with pytest.raises(ConfigError, match=message):
        open_npz(tmp_path, split, **arrays)


def test_what_is_no_npz_file_is_refused(tmp_path):
    np.savez(tmp_path / "cut.npz", images=PIXELS)
    content = (tmp_path / "cut.npz").read_bytes()
    np.save(tmp_path / "one.npy", PIXELS)
    files = {
        "cut.npz": content[:-30],
        "flipped.npz": content[:900] + b"?" + content[901:],
        "a": b"",
    }
    for name, damaged in files.items():
        (tmp_path / name).write_bytes(damaged)
    for name in [*files, "one.npy", "missing.npz", "."]:
        with pytest.raises(ConfigError, match=r"cannot be read as an \.npz file \(\w+: .*=FILE"):
            open_source(DataConfig(source="npz", path=str(tmp_path / name)))
    with pytest.raises(ConfigError, match=r"data\.path: '' cannot be read"):
        open_source(DataConfig(source="npz"))


@pytest.fixture(scope="module")
def array_record_dir(tmp_path_factory):
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


def write_tfrecords(source, target, shard_lengths):
    """Writes the records of a TFDS dataset as TFDS lays out tfrecord files."""
    import tensorflow_datasets as tfds

    (prepared,) = source.glob("*/1.0.0")
    info = json.loads((prepared / "dataset_info.json").read_text())
    name = info["name"]
    folder = target / name / "1.0.0"
    folder.mkdir(parents=True)
    shutil.copy(prepared / "features.json", folder)
    builder = tfds.builder(name, data_dir=source)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    for split in info["splits"]:
        records = iter(builder.as_data_source(split["name"], deserialize_method=raw))
        for shard, length in enumerate(shard_lengths):
            ending = f"{shard:05d}-of-{len(shard_lengths):05d}"
            writer = RecordWriter(str(folder / f"{name}-{split['name']}.tfrecord-{ending}"))
            for _ in range(length):
                writer.write(next(records))
            writer.close()
        assert next(records, None) is None
        split["shardLengths"] = [str(length) for length in shard_lengths]
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))


@pytest.fixture(scope="module")
def tfrecord_dir(tmp_path_factory, array_record_dir):
    """The same dataset in three tfrecord files."""
    folder = tmp_path_factory.mktemp("tfrecord")
    write_tfrecords(array_record_dir, folder, [2, 2, 1])
    return folder


@pytest.fixture(params=["array_record", "tfrecord"])
def tfds_dir(request):
    """The dataset in each of the formats."""
    return request.getfixturevalue(f"{request.param}_dir")


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
    "split", ["validation", "validation[1:3]", "validation[:2]", "validation[4:]+validation[:40%]"]
)
def test_tfrecord_files_hold_what_array_record_files_hold(array_record_dir, tfrecord_dir, split):
    expected = open_tfds(array_record_dir, split=split)
    source = open_tfds(tfrecord_dir, split=split)
    assert (source.name, list(source.ids)) == (expected.name, list(expected.ids))
    for index in range(len(expected)):
        assert source.label(index) == expected.label(index)
        if source.label(index) != 2:
            np.testing.assert_array_equal(source.decode(index), expected.decode(index))


def test_tfrecord_files_are_read_by_several_threads(tfrecord_dir):
    source = open_tfds(tfrecord_dir)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(source.label, [0, 1, 2, 3, 4] * 40))
    assert labels == [source.label(index) for index in range(5)] * 40


def test_a_cut_tfrecord_file_is_refused_when_the_dataset_is_opened(tfrecord_dir, tmp_path):
    shutil.copytree(tfrecord_dir, tmp_path, dirs_exist_ok=True)
    (shard,) = tmp_path.rglob("*-00001-of-00003")
    os.truncate(shard, 700)
    with pytest.raises(
        ConfigError, match=rf"data: .*{shard.name}: .* at byte \d+.*prepare .* anew"
    ):
        open_tfds(tmp_path)
    assert list(open_tfds(tmp_path, split="validation[:2]").ids)
    shard.unlink()
    with pytest.raises(ConfigError, match=rf"FileNotFoundError: .*{shard.name}"):
        open_tfds(tmp_path)


def test_a_damaged_record_is_an_error_of_that_example_only(tfrecord_dir, tmp_path):
    shutil.copytree(tfrecord_dir, tmp_path, dirs_exist_ok=True)
    (shard,) = tmp_path.rglob("*-00002-of-00003")
    content = bytearray(shard.read_bytes())
    content[12:40] = b"\xff" * 28
    shard.write_bytes(content)
    source = open_tfds(tmp_path)
    assert source.label(4) == UNKNOWN_LABEL
    with pytest.raises(UnreadableImageError, match=r"/validation/4: DecodeError: \w+"):
        source.decode(4)
    assert all(source.label(index) != UNKNOWN_LABEL for index in range(4))


def test_digests_of_tfds_are_of_the_bytes_of_images(array_record_dir, tfrecord_dir, tmp_path):
    shutil.copytree(tfrecord_dir, tmp_path, dirs_exist_ok=True)
    expected = [open_tfds(array_record_dir).digest(index) for index in range(5)]
    source = open_tfds(tmp_path)
    assert [source.digest(index) for index in range(5)] == expected
    assert len(set(expected)) == 5
    (shard,) = tmp_path.rglob("*-00002-of-00003")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    source = open_tfds(tmp_path)
    assert [source.digest(i) == expected[i] for i in range(5)] == [True] * 4 + [False]
    source = open_tfds(tmp_path)
    os.truncate(shard, 100)
    assert source.digest(4) == 0


def split_fields(message):
    """Splits a protocol buffer of fields with a length into those; each begins with its tag."""
    fields = []
    while message:
        # The length has seven bits a byte, the lowest first; in its last one the eighth is not set.
        last = next(place for place in range(1, 11) if message[place] < 128)
        length = sum((message[place] & 127) << 7 * (place - 1) for place in range(1, last + 1))
        start, stop = last + 1, last + 1 + length
        fields.append((message[:start], message[start:stop]))
        message = message[stop:]
    return fields


def test_an_example_written_anew_is_the_same(array_record_dir, tfrecord_dir, tmp_path):
    """Features have no order: that of their names is another one in each process that writes."""
    shutil.copytree(tfrecord_dir, tmp_path, dirs_exist_ok=True)
    (shard,) = tmp_path.rglob("*-00002-of-00003")
    [(head, features)] = split_fields(shard.read_bytes()[12:-4])
    writer = RecordWriter(str(shard))
    turned = [tag + entry for tag, entry in reversed(split_fields(features))]
    assert len(turned) == 3
    writer.write(head + b"".join(turned))
    writer.close()
    expected, source = open_tfds(array_record_dir), open_tfds(tmp_path)
    assert source.label(4) == expected.label(4) != UNKNOWN_LABEL
    assert source.digest(4) == expected.digest(4)
    assert source.content(4) == expected.content(4)


@pytest.fixture(scope="module")
def boxes_dir(tmp_path_factory):
    """A TFDS dataset with boxes, of one image a split.

    Its masks are no images: a feature that is not used is not decoded.
    """
    import tensorflow_datasets as tfds

    class TinyVoc(tfds.core.GeneratorBasedBuilder):
        """Image, objects and a mask."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            objects = {
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "mask": tfds.features.Image(encoding_format="png"),
                "objects": tfds.features.Sequence(objects),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            image = Image.new("RGB", (40, 20))
            exif = Image.Exif()
            exif[0x0112] = 6
            return {
                "empty": self._generate_examples(encode(image, "JPEG"), 0),
                "upright": self._generate_examples(encode(image, "JPEG"), 2),
                "turned": self._generate_examples(encode(image, "JPEG", exif=exif), 1),
                "broken": self._generate_examples(b"no image", 1),
            }

        def _generate_examples(self, content, num_objects):
            box = tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.5, xmax=1.0)
            objects = [{"bbox": box, "label": 1}] * num_objects
            image, mask = io.BytesIO(content), io.BytesIO(b"no image")
            yield "0", {"image": image, "mask": mask, "objects": objects}

    folder = tmp_path_factory.mktemp("boxes")
    TinyVoc(data_dir=folder, file_format="array_record").download_and_prepare()
    write_tfrecords(folder, folder / "as_tfrecord", [1])
    return folder


@pytest.mark.parametrize("folder", ["", "as_tfrecord"])
@pytest.mark.parametrize(
    ("split", "size", "expected"),
    [
        ("empty", (40, 20), []),
        ("upright", (40, 20), [[20, 5, 40, 10]] * 2),
        # A quarter clockwise: what was right is below, what was above is on the right.
        ("turned", (20, 40), [[10, 20, 15, 40]]),
    ],
)
def test_boxes_of_tfds_are_in_pixels_of_the_upright_image(boxes_dir, folder, split, size, expected):
    source = open_tfds(boxes_dir / folder, name="tiny_voc", split=split)
    assert source.decode(0).size == size
    assert source.label(0) == UNKNOWN_LABEL
    np.testing.assert_allclose(source.boxes(0), np.reshape(expected, (-1, 4)), rtol=1e-6)
    assert source.boxes(0).dtype == np.float32


def test_boxes_of_another_format_are_not_taken_for_fractions(boxes_dir, tmp_path):
    folder = tmp_path / "other_voc" / "1.0.0"
    shutil.copytree(boxes_dir / "tiny_voc" / "1.0.0", folder)
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("tiny_voc", "other_voc"))
    for name, old, new in [
        ("features.json", "REL_YXYX", "XYXY"),
        ("dataset_info.json", "tiny_voc", "other_voc"),
    ]:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    source = open_tfds(tmp_path, name="other_voc", split="upright")
    assert source.decode(0).size == (40, 20)
    assert source.boxes(0).shape == (0, 4)


def test_boxes_of_an_image_without_a_size_are_unreadable(boxes_dir):
    source = open_tfds(boxes_dir, name="tiny_voc", split="broken")
    with pytest.raises(UnreadableImageError, match=f"^{source.ids[0]}: UnidentifiedImageError"):
        source.boxes(0)


def test_datasets_without_boxes_have_none(tfds_dir):
    assert open_tfds(tfds_dir).boxes(0).shape == (0, 4)


def test_an_npz_file_is_no_tfds_folder():
    with pytest.raises(ConfigError, match=r"digits\.npz' is an .npz file: .*data\.source=npz"):
        open_tfds("digits.npz")


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
    assert UNKNOWN_LABEL not in [source.label(i) for i in range(len(source))]
