"""Example sources: real folders, archives and TFDS datasets."""

import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from tensorboardX.record_writer import RecordWriter

from cfx_jax import Classifier
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UNKNOWN_LABEL, open_source
from cfx_jax.data.images import UnreadableImageError

SMALL = (8, 8)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def open_folder(path, **options):
    return open_source(DataConfig(source="folder", path=str(path), **options))


def test_open_source_demo_has_stable_ids_and_labels():
    source = open_source(DataConfig())
    assert list(source.ids) == ["coffee", "motorcycle", "traffic_light"]
    assert [source.label(i) for i in range(len(source))] == [967, 665, 920]
    for i in range(3):
        image = source.load(i, (32, 48), "crop")
        assert image.shape == (32, 48, 3)
        assert image.std() > 0.1


def test_open_source_max_examples_takes_the_first(tmp_path):
    for name in "abc":
        Image.new("RGB", (30, 40)).save(tmp_path / f"{name}.png")
    assert list(open_folder(tmp_path, max_examples=2).ids) == ["a.png", "b.png"]
    assert len(open_folder(tmp_path, max_examples=9)) == 3


@pytest.mark.parametrize(("count", "is_logged"), [(1, True), (2, True), (3, False), (100, False)])
def test_open_source_reports_examples_left_out(caplog, count, is_logged):
    caplog.set_level("INFO", "cfx_jax")
    open_source(DataConfig(max_examples=count))
    assert (f"data.max_examples: the first {count} of 3" in caplog.text) == is_logged
    assert ("max_examples" in caplog.text) == is_logged


def test_fingerprint_depends_on_the_ids():
    source = open_source(DataConfig())
    assert source.fingerprint == open_source(DataConfig()).fingerprint
    assert source.fingerprint != open_source(DataConfig(max_examples=2)).fingerprint


def test_open_source_without_boxes_has_none(tmp_path):
    Image.new("RGB", (30, 40)).save(tmp_path / "a.png")
    for source in (open_source(DataConfig()), open_folder(tmp_path)):
        assert source.boxes(0).shape == (0, 4)
        assert source.boxes(0).dtype == np.float32


@pytest.fixture(scope="module")
def array_record_dir(tmp_path_factory, prepare_tfds):
    """An ImageNet-like TFDS dataset of five JPEGs whose red encodes the label, one truncated."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=1000),
        "file_name": tfds.features.Text(),
    }
    examples = {}
    for label in range(5):
        content = encode(Image.new("RGB", (20, 30), (label * 50, 0, 0)), "JPEG")
        name = f"ILSVRC2012_val_{label}.JPEG"
        image = io.BytesIO(content[: 300 if label == 2 else None])
        examples[name] = {"image": image, "label": label, "file_name": name}
    folder = tmp_path_factory.mktemp("tfds")
    return prepare_tfds(folder, "tiny_imagenet", features, {"validation": examples})


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


def test_open_tfds_reads_record_by_record(tfds_dir):
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
def test_open_tfds_slice_of_a_split_keeps_ids_and_labels(tfds_dir, split):
    whole = open_tfds(tfds_dir)
    part = open_tfds(tfds_dir, split=split)
    expected = [2, 3, 4] if split == "validation[2:]" else [4, 0]
    assert list(part.ids) == [whole.ids[i] for i in expected]
    assert [part.label(i) for i in range(len(part))] == [whole.label(i) for i in expected]


@pytest.mark.parametrize(
    "split", ["validation", "validation[1:3]", "validation[:2]", "validation[4:]+validation[:40%]"]
)
def test_open_tfds_tfrecord_equals_array_record(array_record_dir, tfrecord_dir, split):
    expected = open_tfds(array_record_dir, split=split)
    source = open_tfds(tfrecord_dir, split=split)
    assert (source.name, list(source.ids)) == (expected.name, list(expected.ids))
    for index in range(len(expected)):
        assert source.label(index) == expected.label(index)
        if source.label(index) != 2:
            np.testing.assert_array_equal(source.decode(index), expected.decode(index))


def test_open_tfds_refuses_a_truncated_tfrecord_file(tfrecord_dir, tmp_path):
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


def test_open_tfds_damaged_record_is_an_error_of_that_example_only(tfrecord_dir, tmp_path):
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


def test_open_tfds_digests_depend_on_image_bytes(array_record_dir, tfrecord_dir, tmp_path):
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
        # The length has 7 bits per byte, the lowest first; only its last byte lacks the 8th bit.
        last = next(place for place in range(1, 11) if message[place] < 128)
        length = sum((message[place] & 127) << 7 * (place - 1) for place in range(1, last + 1))
        start, stop = last + 1, last + 1 + length
        fields.append((message[:start], message[start:stop]))
        message = message[stop:]
    return fields


def test_open_tfds_rewritten_example_has_the_same_content(array_record_dir, tfrecord_dir, tmp_path):
    """Features have no fixed order: each writing process orders their names differently."""
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
def boxes_dir(tmp_path_factory, prepare_tfds):
    """A TFDS dataset with boxes, with one image per split.

    Its masks are not images: features that are not used are not decoded.
    """
    import tensorflow_datasets as tfds

    objects = {
        "bbox": tfds.features.BBoxFeature(),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "mask": tfds.features.Image(encoding_format="png"),
        "objects": tfds.features.Sequence(objects),
    }
    box = tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.5, xmax=1.0)

    def example(content, num_objects):
        objects = [{"bbox": box, "label": 1}] * num_objects
        image, mask = io.BytesIO(content), io.BytesIO(b"no image")
        return {"0": {"image": image, "mask": mask, "objects": objects}}

    image, exif = Image.new("RGB", (40, 20)), Image.Exif()
    exif[0x0112] = 6
    splits = {
        "empty": example(encode(image, "JPEG"), 0),
        "upright": example(encode(image, "JPEG"), 2),
        "turned": example(encode(image, "JPEG", exif=exif), 1),
        "broken": example(b"no image", 1),
    }
    folder = prepare_tfds(tmp_path_factory.mktemp("boxes"), "tiny_voc", features, splits)
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
def test_open_tfds_boxes_are_in_pixels_of_the_upright_image(
    boxes_dir, folder, split, size, expected
):
    source = open_tfds(boxes_dir / folder, name="tiny_voc", split=split)
    assert source.decode(0).size == size
    assert source.label(0) == UNKNOWN_LABEL
    np.testing.assert_allclose(source.boxes(0), np.reshape(expected, (-1, 4)), rtol=1e-6)
    assert source.boxes(0).dtype == np.float32


def test_open_tfds_does_not_read_other_box_formats_as_fractions(boxes_dir, tmp_path):
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


def test_open_tfds_boxes_without_an_image_size_are_unreadable(boxes_dir):
    source = open_tfds(boxes_dir, name="tiny_voc", split="broken")
    with pytest.raises(UnreadableImageError, match=f"^{source.ids[0]}: UnidentifiedImageError"):
        source.boxes(0)


@pytest.fixture(scope="module")
def synsets_dir(tmp_path_factory, prepare_tfds):
    """A TFDS dataset of three ImageNet classes in another order, as in `imagenet_resized`."""
    import tensorflow_datasets as tfds

    names = ["n02979186", "n01440764", "n02102040"]
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(names=names),
    }
    examples = {}
    for label, name in enumerate(names):
        content = encode(Image.new("RGB", (9, 9), (label, 0, 0)))
        examples[name] = {"image": io.BytesIO(content), "label": label}
    folder = tmp_path_factory.mktemp("synsets")
    return prepare_tfds(folder, "tiny_synsets", features, {"validation": examples})


@pytest.mark.parametrize(("count", "expected"), [(1000, [482, 0, 217]), (3, [0, 1, 2])])
def test_open_source_maps_tfds_labels_to_the_classifier(synsets_dir, count, expected):
    def apply(params, images):
        return np.zeros((len(images), count), np.float32)

    config = DataConfig("tfds", str(synsets_dir), "tiny_synsets", "validation")
    source = open_source(config, Classifier((), apply, image_size=(8, 8)))
    found = {source.decode(i).getpixel((0, 0))[0]: source.label(i) for i in range(3)}
    assert [found[i] for i in range(3)] == expected


def test_open_source_refuses_tfds_labels_of_other_classes(synsets_dir):
    config = DataConfig("tfds", str(synsets_dir), "tiny_synsets", "validation")
    with pytest.raises(
        ConfigError, match=r"labels of tiny_synsets/1.0.0: 3 classes, but .* 0 to 1"
    ):
        open_source(config, Classifier((), np.asarray, class_names=("cat", "dog")))


def test_open_tfds_without_boxes_has_none(tfds_dir):
    assert open_tfds(tfds_dir).boxes(0).shape == (0, 4)


def test_open_tfds_refuses_an_npz_file():
    with pytest.raises(ConfigError, match=r"digits\.npz' is an .npz file: .*data\.source=npz"):
        open_tfds("digits.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "imagenet2012"}, r"'imagenet2012', split 'validation', cannot be opened"),
        ({"name": "no_such_dataset"}, r"TFDS error: DatasetNotFoundError"),
        ({"split": "train"}, r"Unknown split 'train'.*'validation'"),
        ({"name": "", "split": ""}, r"TFDS error: ValueError"),
    ],
)
def test_open_tfds_missing_dataset_explains_how_to_prepare_it(tfds_dir, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        open_tfds(tfds_dir, **options)
    assert "file_format='array_record').download_and_prepare()" in str(error.value)
    assert f"data_dir='{tfds_dir}'" in str(error.value)
    assert "--config.data.source=folder --config.data.path=DIR" in str(error.value)


def test_open_tfds_does_not_need_tensorflow(tfds_dir, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    source = open_tfds(tfds_dir)
    assert source.label(0) in range(5)
    assert UNKNOWN_LABEL not in [source.label(i) for i in range(len(source))]
