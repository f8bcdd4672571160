"""Folders of images: which files are read, and which class each image has."""

import collections
import io
import logging
import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from cfx_jax import Classifier
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UNKNOWN_LABEL, open_source
from cfx_jax.data.images import UnreadableImageError
from cfx_jax.weights.class_names import read_packaged

SMALL = (8, 8)
IMAGENET = read_packaged("imagenet_classes.txt")


def random_image(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def open_folder(path, classifier=None, **options):
    return open_source(DataConfig(source="folder", path=str(path), **options), classifier)


def with_names(*names):
    return Classifier(params=(), apply=lambda params, images: images, class_names=names)


def without_names(count):
    def apply(params, images):
        return np.zeros((len(images), count), np.float32)

    return Classifier(params=(), apply=apply, image_size=(8, 8))


def save(folder, *names):
    """Writes an image under each name; folders that end in / are empty."""
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(encode(random_image(size=(3, 4))))


def labels_of(source):
    return {name: source.label(i) for i, name in enumerate(source.ids)}


def test_open_folder_without_manifest_takes_all_images_by_name(tmp_path):
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


@pytest.mark.parametrize("path", ["", "missing"])
def test_open_folder_missing_explains_how_to_name_one(tmp_path, path):
    with pytest.raises(ConfigError, match=r"data\.path.*--config\.data\.path=DIR"):
        open_folder(path and tmp_path / path)


def test_open_folder_empty_explains_what_is_needed(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ConfigError, match=r"contains no image.*\.jpg.*manifest\.csv"):
        open_folder(tmp_path)


BAD = {
    "cut.jpg": encode(random_image(), "JPEG")[:-200],
    "empty.png": b"",
    "text.jpg": b"<html>404 not found</html>",
}


def test_open_folder_bad_file_is_an_error_of_that_example_only(tmp_path):
    for name, content in BAD.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    save(tmp_path, "good.png", "folder.jpg/inside.png")
    source = open_folder(tmp_path)
    good = {"good.png", "folder.jpg/inside.png"}
    assert set(source.ids) == {*BAD, "pipe.jpg", "link.jpg"} | good
    for index, name in enumerate(source.ids):
        if name in good:
            assert source.load(index, SMALL, "crop").shape == (*SMALL, 3)
        else:
            with pytest.raises(UnreadableImageError, match=rf"^{name}: \w+: \S+"):
                source.load(index, SMALL, "crop")


def test_open_folder_numbers_class_folders_by_name(tmp_path):
    """As in ImageNet; an empty class keeps its number, a hidden folder has none."""
    files = ["n02/b.png", "n01/z.JPEG", "n02/a.png", "n10/deep/c.png", ".cache/x.png"]
    save(tmp_path, *files, "n03/")
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
    assert set(open_folder(tmp_path).ids) == {*files} - {".cache/x.png"}


def test_open_folder_refuses_class_folders_mixed_with_other_classes(tmp_path):
    (tmp_path / "n01").mkdir()
    with pytest.raises(ConfigError, match="contains no image"):
        open_folder(tmp_path, class_folders=True)
    save(tmp_path, "n01/a.png", "b.png")
    with pytest.raises(ConfigError, match=r"outside of its sub-folders, such as 'b\.png'; "):
        open_folder(tmp_path, class_folders=True)
    (tmp_path / "b.png").unlink()
    for name in ("manifest.csv", "metadata.csv"):
        (tmp_path / name).write_text("file,label\nn01/a.png,3\n")
        with pytest.raises(ConfigError, match=rf"has a {name}.*remove it or --config\.data\.class"):
            open_folder(tmp_path, class_folders=True)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("is_classes", [False, True])
def test_open_folder_refuses_two_tables(tmp_path, is_classes):
    save(tmp_path, "n01/a.png")
    for name, label in {"manifest.csv": 3, "metadata.csv": 4}.items():
        (tmp_path / name).write_text(f"file,label\nn01/a.png,{label}\n")
    with pytest.raises(ConfigError, match=r"both manifest\.csv and metadata\.csv are tables; "):
        open_folder(tmp_path, class_folders=is_classes)


@pytest.mark.parametrize("name", ["manifest.csv", "metadata.csv"])
def test_open_folder_refuses_a_folder_named_like_a_table(tmp_path, name):
    save(tmp_path, "a.png", f"{name}/")
    with pytest.raises(ConfigError, match=rf"{name}: is a folder; expected a table"):
        open_folder(tmp_path)


@pytest.mark.parametrize("is_classes", [False, True])
@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (["sub/metadata.csv"], r"sub/metadata.csv; to read one, open its folder: .*/sub$"),
        (["sub/deep/manifest.csv"], r"sub/deep/manifest.csv; to read one, .*/sub/deep$"),
        (["else/manifest.csv", "sub/metadata.csv"], r"else/manifest.csv and 1 more; .*/else$"),
        (["sub/other.csv", ".cache/manifest.csv"], ""),
    ],
)
def test_open_folder_warns_of_a_table_in_a_sub_folder(
    tmp_path, caplog, tables, expected, is_classes
):
    save(tmp_path, "sub/a.png", "sub/deep/b.png", "else/c.png", ".cache/d.png")
    for table in tables:
        (tmp_path / table).write_text("file,label\na.png,3\n")
    open_folder(tmp_path, class_folders=is_classes)
    reported = [r.getMessage() for r in caplog.records if "sub-folders are not read" in r.message]
    assert len(reported) == bool(expected)
    assert all(re.search(expected, line) for line in reported)


def test_open_folder_skips_the_folder_of_a_run(tmp_path, log):
    """A run may write its folder into the folder that it explains."""
    save(tmp_path, "a/1.png", "a/run/report/x.png", "run/media/y.png", "run/records.zarr/z.png")
    for run in ("a/run", "run"):
        (tmp_path / run / "records.zarr").mkdir(exist_ok=True)
        (tmp_path / run / "manifest.json").write_text("{}")
    save(tmp_path, "b/records.zarr/2.png", "c/3.png")
    (tmp_path / "c" / "manifest.json").write_text("{}")
    expected = ["a/1.png", "b/records.zarr/2.png", "c/3.png"]
    assert list(open_folder(tmp_path).ids) == expected
    assert "3 images; 3 files not read: 2 folder of a run, 1 .json" in log()
    assert labels_of(open_folder(tmp_path, class_folders=True)) == {
        name: i for i, name in enumerate(expected)
    }
    assert "3 images in 3 class folders; 3 files not read: 2 folder of a run" in log()


KINDS = {
    "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "png": "PNG", "apng": "PNG",
    "webp": "WEBP", "bmp": "BMP", "dib": "DIB", "tif": "TIFF", "tiff": "TIFF", "gif": "GIF",
    "avif": "AVIF", "heic": "HEIF", "heif": "HEIF", "jp2": "JPEG2000", "ppm": "PPM",
}  # fmt: skip


@pytest.mark.parametrize("suffix", KINDS)
def test_open_folder_reads_every_image_suffix_of_pillow(tmp_path, suffix):
    import pillow_heif

    pillow_heif.register_heif_opener()
    for name in (f"a.{suffix}", f"b.{suffix.upper()}"):
        Image.new("RGB", (64, 64), (200, 200, 200)).save(tmp_path / name, KINDS[suffix])
    source = open_folder(tmp_path)
    assert list(source.ids) == [f"a.{suffix}", f"b.{suffix.upper()}"]
    np.testing.assert_allclose(255 * source.load(1, SMALL, "crop"), 200, atol=2)


def test_open_folder_counts_and_names_skipped_files(tmp_path, log, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    save(tmp_path, "a.png", "sub/b.png", "c.heic", "d.HEIC", "e.txt", "README", "f.npz")
    save(tmp_path, ".DS_Store", "._a.png", "sub/Thumbs.db", "__MACOSX/a.png", ".cache/x/a.png")
    assert list(open_folder(tmp_path).ids) == ["a.png", "sub/b.png"]
    (line,) = log().splitlines()
    assert line.startswith("2 images; 10 files not read: 3 left behind by a program, 2 ")
    for text in ("2 folder left behind by a program", "2 .heic (Pillow reads it with the package"):
        assert text in line
    assert line.endswith("1 of other kinds")


def test_open_folder_reports_that_all_files_are_read(tmp_path, log):
    save(tmp_path, "a.png")
    open_folder(tmp_path)
    assert log() == "1 images; 0 files not read"


@pytest.mark.parametrize("name", [
    "labels.csv", "Manifest.csv", "manifest.tsv", "metadata.jsonl", "labels.txt", "labels.json",
    "label.TXT", "annotations.json", "metadata.json", "manifest.txt", "labels.v2.txt",
])  # fmt: skip
def test_open_folder_warns_of_an_unread_table(tmp_path, caplog, name):
    save(tmp_path, "a.png")
    (tmp_path / name).write_text("file,label\na.png,3\n")
    assert labels_of(open_folder(tmp_path)) == {"a.png": UNKNOWN_LABEL}
    assert f"from a table named manifest.csv or metadata.csv, not from {name}" in caplog.text


def test_open_folder_follows_links_to_folders_once(tmp_path, log):
    save(tmp_path / "elsewhere", "x.png", "deep/y.png")
    save(tmp_path / "images", "a/b.png")
    images = tmp_path / "images"
    (images / "a" / "up").symlink_to("..")
    (images / "again").symlink_to("a")
    (images / "first").symlink_to(tmp_path / "elsewhere")
    (images / "second").symlink_to(tmp_path / "elsewhere")
    (images / "whole").symlink_to(tmp_path)
    assert list(open_folder(images).ids) == ["a/b.png", "first/deep/y.png", "first/x.png"]
    assert "link to a folder that is read already" in log()


def test_open_folder_counts_a_folder_without_access(tmp_path, log, monkeypatch):
    save(tmp_path, "a.png", "locked/b.png")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(open_folder(tmp_path).ids) == ["a.png"]
    assert "1 files not read: 1 folder that cannot be opened (Permission denied)" in log()


def test_open_folder_accepts_a_single_image(tmp_path, log):
    save(tmp_path, "a.png", "b.png")
    source = open_folder(tmp_path / "b.png")
    assert list(source.ids) == ["b.png"]
    assert source.label(0) == UNKNOWN_LABEL
    assert source.decode(0).size == (4, 3)
    assert "1 image, " in log()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", "0 of 1 readable; expected an image or a folder of images: a.txt: Unidentified"),
        ("a.npz", r"a\.npz: .*; for arrays: --config\.data\.source=npz"),
    ],
)
def test_open_folder_refuses_a_single_file_that_is_no_image(tmp_path, name, message):
    (tmp_path / name).write_text("no image")
    with pytest.raises(ConfigError, match=message):
        open_folder(tmp_path / name)


def test_open_folder_refuses_a_split_without_a_table(tmp_path):
    save(tmp_path, "val/a/x.png", "train/a/x.png")
    for is_classes in (False, True):
        with pytest.raises(ConfigError, match=r"data\.split=val .* --config\.data\.path=.*/val"):
            open_folder(tmp_path, split="val", class_folders=is_classes)
    with pytest.raises(ConfigError, match="train, val are splits, not classes"):
        open_folder(tmp_path, with_names("a", "b"), class_folders=True)


@pytest.mark.parametrize(
    ("names", "classifier", "expected"),
    [
        # Sorted as texts, 10 and 11 come before 2.
        ([str(i) for i in range(12)], None, range(12)),
        ([str(i) for i in range(12)], without_names(12), range(12)),
        (["00", "01", "10"], without_names(12), [0, 1, 10]),
        ([str(i) for i in range(10)], with_names(*map(str, range(10))), range(10)),
        (["7", "3"], without_names(10), [7, 3]),
        # Imagenette.
        (["n01440764", "n02102040", "n02979186"], None, [0, 217, 482]),
        (["n01440764", "n02102040", "n02979186"], with_names(*IMAGENET), [0, 217, 482]),
        (["n01440764", "n02102040", "n02979186"], without_names(1000), [0, 217, 482]),
        # Stanford Dogs.
        (["n02085620-Chihuahua", "n02113978-Mexican_hairless"], None, [151, 268]),
        # A network trained on Imagenette itself, with and without names.
        (["n01440764", "n02102040", "n02979186"], without_names(3), [0, 1, 2]),
        (["n02979186", "n01440764"], with_names("n02979186", "n01440764", "x"), [0, 1]),
        (["tabby", "Egyptian_cat", "tiger_cat"], with_names(*IMAGENET), [281, 285, 282]),
        (["dog", "cat"], with_names("mouse", "dog", "cat"), [1, 2]),
        # A vehicle, not a split.
        (["train"], with_names("car", "train"), [1]),
        (["DOG", "wild Cat"], with_names("wild_cat", "dog"), [1, 0]),
        # None of them is a name: all the classes, in the order of their names.
        (["b", "a", "c"], without_names(3), [1, 0, 2]),
        (["b", "a", "c"], None, [1, 0, 2]),
        (["b", "a"], with_names("cat", "dog"), [1, 0]),
        (["class2", "class10", "class1"], without_names(3), [2, 1, 0]),
    ],
)  # fmt: skip
def test_open_folder_class_folders_are_matched_by_name(tmp_path, names, classifier, expected):
    save(tmp_path, *(f"{name}/x.png" for name in names))
    source = open_folder(tmp_path, classifier, class_folders=True)
    wanted = {f"{name}/x.png": label for name, label in zip(names, expected, strict=True)}
    assert labels_of(source) == wanted


@pytest.mark.parametrize(
    ("names", "classifier", "message"),
    [
        (["cat", "dgo"], with_names("cat", "dog"), "1 of 2 names .* 'dgo' .*did you mean 'dog'?"),
        (["0", "1", "misc"], without_names(3), "2 of 3 names .*'misc' is no number of a class"),
        (["0", "10"], without_names(10), "'10' is no class: the classifier has classes 0 to 9"),
        (["a", "b"], without_names(3), "2 classes, but the classifier has classes 0 to 2"),
        (["a", "b"], with_names("cat", "dog", "fox"), "2 classes, but .* such as 'a' do not id"),
        (["n01440764", "n02102040"], without_names(10), "2 classes, but .* classes 0 to 9"),
        (["n99999999", "n01440764"], without_names(1000), "1 of 2 names .*'n99999999'"),
        (["-1", "0x", "10"], None, "1 of 3 names"),
        (["01", "1"], None, "'01' and '1' are the same class: join them"),
        (["1", "01", "001", "2"], without_names(3), "'001' and '01' are the same class"),
        (["dog", "DOG", "cat"], with_names("cat", "dog"), "'DOG' and 'dog' are the same class"),
        (["dog", "hound"], with_names("cat", "dog, hound"), "'dog' and 'hound' are the same"),
        (["1", "dog"], with_names("cat", "dog"), "'1' and 'dog' are the same class"),
        (["n02123045-a", "n02123045"], without_names(1000), "'n02123045' and 'n02123045-a' are"),
        (["crane", "tabby"], with_names(*IMAGENET), r"classes 134 \(crane\) and 517 \(crane\)"),
        # A network whose classes are sorted as texts: is it the third class, or class 10?
        (["10", "2"], with_names("0", "1", "10", "2"), "'10' is the name of class 2 .* another"),
    ],
)
def test_open_folder_refuses_ambiguous_class_folders(tmp_path, names, classifier, message):
    save(tmp_path, *(f"{name}/x.png" for name in names))
    with pytest.raises(ConfigError, match=rf"^data\.class_folders.*{message}"):
        open_folder(tmp_path, classifier, class_folders=True)


def test_open_folder_reports_the_numbers_of_class_folders(tmp_path, log, caplog):
    save(tmp_path, "a/1.png", "b/1.png", "b/2.png", "b/n.txt", "c/", "note.txt", "__MACOSX/x.png")
    open_folder(tmp_path, with_names("cat", "dog", "fox"), class_folders=True)
    counted, order = log().splitlines()
    assert counted.startswith("3 images in 3 class folders; 2 files not read: ")
    assert "1 .txt" in counted
    assert "1 outside of the class folders" in counted
    assert "numbered in their order: a = class 0 (cat), b = class 1 (dog), c = " in order
    assert caplog.records[-1].levelno == logging.WARNING
    caplog.clear()
    open_folder(tmp_path / "b")
    save(tmp_path / "other", "dog/1.png")
    open_folder(tmp_path / "other", with_names("cat", "dog", "fox"), class_folders=True)
    assert log().splitlines()[-1] == "data.class_folders: 1 of 3 classes: dog = class 1 (dog)"
    assert collections.Counter(r.levelname for r in caplog.records) == {"INFO": 3}


def test_open_source_files_keep_their_order_without_labels(tmp_path):
    for name in ("a.png", "sub/b.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "manifest.csv").write_text("file,label\na.png,3\n")
    config = DataConfig(source="folder", path=str(tmp_path), files=("sub/b.png", "a.png"))
    source = open_source(config)
    assert source.ids == ["sub/b.png", "a.png"]
    assert [source.label(index) for index in range(2)] == [UNKNOWN_LABEL] * 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a.png", "no.png"), r"no\.png is not a file \(1 of 2 are missing\)"),
        (("a.png", "a.png"), "names one of its 2 files more than once"),
    ],
)
def test_open_source_refuses_missing_or_repeated_files(files, message, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=message):
        open_source(DataConfig(source="folder", path=str(tmp_path), files=files))


def test_open_source_refuses_files_of_which_none_is_readable(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("no picture")
    config = DataConfig(source="folder", path=str(tmp_path), files=("a.jpg", "b.jpg"))
    with pytest.raises(ConfigError, match=r"^0 of 2 readable; expected images: a\.jpg: Unidentif"):
        open_source(config)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    assert open_source(config).ids == ["a.jpg", "b.jpg"]
