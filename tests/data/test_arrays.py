"""Images and labels in an .npz file."""

import logging

import numpy as np
import pytest

from cfx_jax import Classifier
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UNKNOWN_LABEL, open_source

LABELS = np.arange(12)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 7, 3), np.uint8)


def open_npz(folder, split="", **arrays):
    np.savez(folder / "digits.npz", **arrays)
    return open_source(DataConfig(source="npz", path=str(folder / "digits.npz"), split=split))


def test_open_npz_reads_images_with_labels_and_ids(tmp_path):
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
def test_open_npz_converts_grey_arrays_to_rgb(tmp_path, trailing):
    source = open_npz(tmp_path, images=PIXELS[..., 0].reshape(12, 5, 7, *trailing))
    assert list(source.ids)[:2] == ["00", "01"]
    assert list(source.ids)[-1] == "11"
    assert source.label(0) == UNKNOWN_LABEL
    np.testing.assert_array_equal(source.decode(3), PIXELS[3, ..., :1].repeat(3, -1))


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("x", "y")])
@pytest.mark.parametrize("split", ["", "test"])
def test_open_npz_split_selects_arrays(tmp_path, images, labels, split):
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
        ("", {"images": PIXELS - 0.5}, r"floats in \[0, 1\], .*got float64 \[12, 5, 7, 3\]; v"),
        ("", {"images": PIXELS.astype(float)}, "values are 0 to 255"),
        ("", {"images": PIXELS / 255 * 2 - 1}, "values are -1 to 1"),
        ("", {"images": np.full((2, 5, 7), np.nan)}, "values are nan to nan"),
        ("", {"images": PIXELS.astype(np.uint16)}, "values are 0 to 255"),
        ("", {"images": PIXELS.astype(np.int64)}, r"got int64 \[12, 5, 7, 3\]$"),
        ("", {"images": PIXELS.transpose(0, 3, 1, 2)}, r"channels first: save np\.moveaxis\(im"),
        ("", {"images": PIXELS[:, None, :, :, 0]}, r"got uint8 \[12, 1, 5, 7\]; this is channels"),
        ("", {"images": PIXELS[0]}, r"got uint8 \[5, 7, 3\]; one image is images\[None\]"),
        ("", {"images": PIXELS[..., :2]}, r"got uint8 \[12, 5, 7, 2\]"),
        ("", {"images": PIXELS[0, 0]}, r"got uint8 \[7, 3\]"),
        ("", {"images": np.uint8(3)}, r"got uint8 \[\]"),
        ("", {"images": PIXELS[:, :0]}, r"got uint8 \[12, 0, 7, 3\]"),
        ("", {"images": PIXELS[:0]}, r"got uint8 \[0, 5, 7, 3\]; it contains no image$"),
        ("", {"images": PIXELS[:0] / 255}, "it contains no image$"),
        ("", {"images": PIXELS[:3, ..., 0]}, r"\[3, 5, 7\]; this is channels first, one image"),
        ("", {"x": PIXELS[:3, ..., 0] / 255}, "channels first, one image: .* three grey images"),
        ("", {"images": PIXELS % 2}, "values 0 and 1 of uint8 are nearly black: multiply by 255"),
        ("", {"images": PIXELS, "x": PIXELS}, "of `images` and `x`, got both: remove one"),
        ("", {"images": PIXELS, "labels": LABELS, "y": LABELS}, "of `labels` and `y`, got both"),
        ("a", {"images_a": PIXELS, "x_a": PIXELS}, "of `images_a` and `x_a`, got both"),
        *(
            (split, {images: PIXELS, name: LABELS}, f"array `{name}` is not read; did .*{meant}")
            for split, images, meant in (("", "x", "`labels`"), ("test", "x_test", "`labels_test`"))
            for name in (
                "label", "Labels", "targets", "target", "Y", "labels_x", "y_true", "class_id",
                "train_labels", "groundtruth", "y_train", "true_labels",
            )
        ),
        ("", {"images": PIXELS, "id": LABELS}, "array `id` is not read; did you mean `ids`"),
        ("test", {"images_test": PIXELS, "labels": LABELS}, "did you mean `labels_test`"),
        ("test", {"images_test": PIXELS, "y": LABELS}, "did you mean `labels_test`"),
        ("test", {"images_test": PIXELS, "ids": LABELS}, "did you mean `ids_test`"),
        ("", {"images": PIXELS, "labels": np.ones(12)}, r"labels: expected.*float64 \[12\]"),
        ("", {"images": PIXELS, "y": np.arange(11)}, r"integers .*\[12\]; got int64 \[11\]"),
        ("", {"images": PIXELS, "y": np.zeros((12, 1), int)}, r"got int64 \[12, 1\]"),
        ("", {"images": PIXELS, "labels": np.full(12, -2)}, "integers of at least -1"),
        ("", {"images": PIXELS, "ids": np.arange(12)}, r"expected unique texts, \[12\]; got int64"),
        ("", {"images": PIXELS, "ids": np.array(["a"] * 12)}, r"\[12\]; repeated: a$"),
        ("", {"images": PIXELS[:2], "ids": np.array(["a", ""])}, "example 1 of .* has no id"),
        ("", {"images": PIXELS[:1], "ids": np.array(["\ud800"])}, "example 0 .* unusable id"),
        ("", {"images": PIXELS, "ids": np.array(["a", "b"])}, r"got <U1 \[2\]"),
        ("", {"images": np.array([{}, "pickled"])}, "Object arrays cannot be loaded"),
    ],
)  # fmt: skip
def test_open_npz_refuses_unexpected_arrays(tmp_path, split, arrays, message):
    with pytest.raises(ConfigError, match=message):
        open_npz(tmp_path, split, **arrays)


@pytest.mark.parametrize(
    ("split", "arrays", "unused"),
    [
        ("", {"x": PIXELS, "y": LABELS}, ""),
        ("", {"x": PIXELS, "y": LABELS, "weights": LABELS}, "; arrays not used: weights"),
        ("", {"x": PIXELS, "class_names": LABELS}, "; arrays not used: class_names"),
        # Labels of other images.
        ("", {"x": PIXELS, "x_a": PIXELS, "y_a": LABELS}, "; arrays not used: x_a, y_a"),
        ("a", {"x_a": PIXELS, "x": PIXELS, "labels": LABELS}, "; arrays not used: x, labels"),
        (
            "",
            {"x": PIXELS} | {f"a{i}": LABELS for i in range(6)},
            "; arrays not used: a0, a1, a2, a3, a4, and 1 more",
        ),
    ],
)
def test_open_npz_names_unused_arrays(tmp_path, caplog, split, arrays, unused):
    caplog.set_level(logging.INFO, "cfx_jax")
    assert len(open_npz(tmp_path, split, **arrays)) == 12
    assert f" of them with a label{unused}" in caplog.records[0].getMessage()
    assert ("not used" in caplog.text) == bool(unused)


@pytest.mark.parametrize("others", [{"labels": np.arange(3)}, {"ids": np.array(["a", "b", "c"])}])
def test_open_npz_recognises_three_grey_images_by_other_arrays(tmp_path, others):
    source = open_npz(tmp_path, images=PIXELS[:3, ..., 0], **others)
    assert [source.decode(i).size for i in range(3)] == [(7, 5)] * 3


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_open_npz_converts_floats_from_0_to_1_to_8_bits(tmp_path, dtype):
    source = open_npz(tmp_path, images=(PIXELS / 255).astype(dtype))
    for i in range(12):
        np.testing.assert_array_equal(source.decode(i), PIXELS[i])


def test_open_source_refuses_unknown_labels_of_npz_files_at_once(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(1, 13))
    config = DataConfig(source="npz", path=str(tmp_path / "a.npz"))
    classifier = Classifier(params=(), apply=lambda p, x: x, class_names=tuple("abcdefghijkl"))
    with pytest.raises(ConfigError, match="label 12, but the classifier has classes 0 to 11"):
        open_source(config, classifier)
    assert open_source(config).label(11) == 12


def test_open_source_refuses_a_file_that_is_no_npz(tmp_path):
    np.savez(tmp_path / "cut.npz", images=PIXELS)
    content = (tmp_path / "cut.npz").read_bytes()
    files = {
        "cut.npz": content[:-30],
        "flipped.npz": content[:900] + b"?" + content[901:],
        "a": b"",
    }
    for name, damaged in files.items():
        (tmp_path / name).write_bytes(damaged)
    for name in [*files, "missing.npz", "."]:
        with pytest.raises(ConfigError, match=r"cannot be read as an \.npz file \(\w+: .*=FILE"):
            open_source(DataConfig(source="npz", path=str(tmp_path / name)))
    with pytest.raises(ConfigError, match=r"data\.path: '' cannot be read"):
        open_source(DataConfig(source="npz"))
    np.save(tmp_path / "one.npy", PIXELS)
    with pytest.raises(ConfigError, match=r"is not an \.npz file, but a single array of np\.save"):
        open_source(DataConfig(source="npz", path=str(tmp_path / "one.npy")))
