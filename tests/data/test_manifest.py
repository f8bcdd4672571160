"""Tables of images in many spellings: each gives the right labels, or an error."""

import csv
import gzip
import pathlib
import re
import string

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cfx_jax import Classifier
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UNKNOWN_LABEL, open_source
from cfx_jax.data.images import UnreadableImageError
from cfx_jax.weights.class_names import read_packaged

SMALL = (8, 8)


def random_image(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


def open_folder(path, names=None, **options):
    classifier = names and Classifier(
        params=(), apply=lambda params, images: images, class_names=tuple(names)
    )
    return open_source(DataConfig(source="folder", path=str(path), **options), classifier)


def save(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        random_image(size=(3, 4)).save(folder / name)


def labels_of(source):
    return {name: source.label(i) for i, name in enumerate(source.ids)}


def write_manifest(folder, rows, header=("file", "label"), encoding="utf-8"):
    with (folder / "manifest.csv").open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows])


def test_manifest_sets_order_and_labels(tmp_path):
    (tmp_path / "n01").mkdir()
    for seed, name in enumerate(["n01/a.png", "b.png", "unlisted.png"]):
        Image.new("RGB", (9, 9), (50 * seed, 0, 0)).save(tmp_path / name)
    write_manifest(tmp_path, [("b.png", 7), ("n01/a.png", ""), ("gone.png", 3)])
    source = open_folder(tmp_path)
    assert list(source.ids) == ["b.png", "n01/a.png", "gone.png"]
    assert [source.label(i) for i in range(3)] == [7, UNKNOWN_LABEL, 3]
    np.testing.assert_allclose(255 * source.load(0, SMALL, "crop")[..., 0], 50, atol=1e-3)
    with pytest.raises(UnreadableImageError, match=r"gone\.png: FileNotFoundError"):
        source.load(2, SMALL, "crop")


def test_manifest_may_have_no_labels_or_come_from_a_spreadsheet(tmp_path):
    save(tmp_path, "a.png", "b.png")
    write_manifest(tmp_path, [("a.png",), ("b.png",)], header=("file",))
    source = open_folder(tmp_path)
    assert [source.label(i) for i in range(2)] == [UNKNOWN_LABEL] * 2
    write_manifest(tmp_path, [("a.png", 4)], encoding="utf-8-sig")
    assert open_folder(tmp_path).label(0) == 4


NAMES = ("mouse", "tabby, tabby cat", "dog", "rot, käse", "dog, hound")
TABLES = {
    "spaces": "file, label\na.png, 1\nb.png , 2",
    "capitals": "File,Label\na.png,1\nb.png,2",
    "hugging face": "file_name,label\na.png,1\nb.png,2",
    "spreadsheet of a country with decimal commas": '"File Name";"Label"\n"a.png";1\n"b.png";2',
    "delimiter for Excel": "sep=;\nfile;label\na.png;1\nb.png;2",
    "delimiter for Excel on Windows": "sep=,\r\nfile,label\r\na.png,1\r\nb.png,2\r\n",
    "tabs for Excel": "SEP=\t\nfile\tlabel\na.png\t1\nb.png\t2",
    "tabs": "file\tlabel\na.png\t1\nb.png\t2",
    "bars": "file|label\na.png|1\nb.png|2",
    "another order, more columns": "who,label,file\nme,1,a.png\nyou,2,b.png",
    "index of pandas": ",file,label\n0,a.png,1\n1,b.png,2",
    "floats of pandas": "file,label\na.png,1.0\nb.png,2.0",
    "empty columns": "file,label,,\na.png,1,,\nb.png,2,,",
    "empty lines": "\n\nfile,label\n\na.png,1\n,\nb.png,2\n\n",
    "Windows": "file,label\r\na.png,1\r\nb.png,2\r\n",
    "old Macintosh": "file,label\ra.png,1\rb.png,2\r",
    "zeros": "file,label\na.png,01\nb.png,0002",
    "other paths": "file,label\n./a.png,1\nsub/../b.png,2",
    "names": 'file,label\na.png,"tabby, tabby cat"\nb.png,dog',
    "names after spaces": 'file, label\na.png, "tabby, tabby cat"\nb.png, dog',
    "parts of names": "file,label\na.png,Tabby_Cat\nb.png,dog",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("kind", TABLES)
def test_manifest_spelling_does_not_change_its_meaning(tmp_path, kind, encoding):
    save(tmp_path, "a.png", "b.png")
    (tmp_path / "manifest.csv").write_bytes(TABLES[kind].encode(encoding))
    source = open_folder(tmp_path, NAMES)
    assert [source.label(i) for i in range(len(source))] == [1, 2]
    assert [source.decode(i).size for i in range(2)] == [(4, 3)] * 2


def test_manifest_of_hugging_face_is_read_by_its_name(tmp_path):
    save(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,3\n")
    assert labels_of(open_folder(tmp_path)) == {"a.png": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,labels\na.png,1", "unknown column 'labels'; did you mean `label`"),
        ("file,lable\na.png,1", "unknown column 'lable'; did you mean `label`"),
        ("file,class\na.png,1", "unknown column 'class'; did you mean `label`"),
        ("file,Class ID\na.png,1", "unknown column 'Class ID'; did you mean `label`"),
        ("file,target\na.png,1", "did you mean `label`"),
        ("file,label,bbox\na.png,1,0 0 1 1", "unknown column 'bbox'; did you mean `boxes`"),
        ("path,label\na.png,1", "unknown column 'path'; did you mean `file`"),
        ("a.png,1", "the first line names 'a.png, 1'; expected a column `file`"),
        ("file,label,Label\na.png,1,2", "columns 'label' and 'Label' are both `label`"),
        ("file,file_name,label\na.png,b.png,2", "columns 'file' and 'file_name' are both"),
        ("file,label\na.png,tabby, tabby cat", 'line 2: 3 cells, .* in quotes, "'),
        ("file,label,\na.png,tabby, tabby cat", "line 2: 3 cells, but the first line names 2"),
        ("file,label,\na.png,1,good", "line 2: 3 cells, .* names 2 .* name each column that is"),
        ("sep=;\nfile;label\na.png;9", "line 3: label '9' is no class"),
        ("sep=;\nfile,label\na.png,1", "unknown column 'file,label'; did you mean"),
        ("file label\na.png 1", "names one column, 'file label'; put commas between the columns"),
        ("file  label\na.png  1", "put commas between the columns"),
        ("file:label\na.png:1", "put commas between the columns"),
        ("Label File\n1 a.png", "put commas between the columns"),
        ("file,label\na.png", "line 2: 1 cells, but the first line names 2 columns"),
        ("file,label\na.png;1", "line 2: 1 cells"),
        ('file,label\n"a.png,1', "line 2: unexpected end of data"),
        ("file,label\n,3", "line 2: names no file"),
        ("file,label\na.png,-2", "line 2: label -2; expected a class, or -1"),
        ("file,label\na.png,5", "line 2: label '5' is no class: .* has classes 0 to 4"),
        ("file,label\na.png,dgo", "line 2: label 'dgo' is no class: .* did you mean 'dog'"),
        ("file,label\na.png,1.5", r"line 2: label '1\.5' is no class"),
        ("file,label\na.png,1_0", "line 2: label '1_0' is no class"),
        *(
            (
                f"file,label\na.png,{text}",
                f"'{re.escape(text)}' is no class.*; leave it empty if it is unknown",
            )
            for text in ("nan", "NaN", "NA", "N/A", "<NA>", "None", "null", "unknown", "?", "-")
        ),
        ("file,label\na.png,n02123045", "line 2: label 'n02123045' is no class"),
        ("file,label\na.png,1\n./a.png,1", r"line 3: \./a\.png is listed twice"),
        ("file,label\na.png,1\na.png,mouse\na.png,0", "line 4: a.png is listed twice"),
        ("file,label\nx.png,1\ny.png,1", "0 of 2 readable: no file exists, such as .*/x.png'"),
        ("file,label\n", "contains no image: it has no row below its header"),
        ("file,label,split\n\n,,\n", "it has no row below"),
        ("", "is empty; expected a column `file`"),
        (" \n\n", "is empty; expected"),
        (",,\n", "the first line names ''"),
    ],
)
def test_manifest_that_is_ambiguous_is_refused(tmp_path, text, message):
    save(tmp_path, "a.png", "b.png")
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_folder(tmp_path, NAMES)


@pytest.mark.parametrize(
    ("name", "encoding", "message"),
    [
        ("a.png", "utf-16", "is UTF-16 or UTF-32; expected text: save it as CSV in UTF-8"),
        ("a.png", "utf-32", "is UTF-16 or UTF-32; expected text"),
        ("a.png", "utf-16-le", "has a zero byte, as UTF-16 .* save it as CSV in UTF-8"),
        ("käse.png", "utf-16-be", "is not UTF-8 at byte 25; save it as CSV in UTF-8"),
        ("käse.png", "cp1252", "is not UTF-8 at byte 12; save it as CSV in UTF-8"),
    ],
)
def test_manifest_that_is_not_utf_8_is_refused(tmp_path, name, encoding, message):
    save(tmp_path, name)
    (tmp_path / "manifest.csv").write_bytes(f"file,label\n{name},1\n".encode(encoding))
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/manifest\.csv: {message}") as caught:
        open_folder(tmp_path, NAMES)
    assert "\n" not in str(caught.value)


def test_manifest_labels_are_synsets_names_or_numbers(tmp_path):
    texts = ["281", "n02123045", "tabby cat", "n02123045_tabby", "TABBY", "missile", "cardigan"]
    save(tmp_path, *(f"{i}.png" for i in range(len(texts))))
    write_manifest(tmp_path, [(f"{i}.png", text) for i, text in enumerate(texts)])
    names = read_packaged("imagenet_classes.txt")
    assert list(labels_of(open_folder(tmp_path, names)).values()) == [281] * 5 + [657, 474]
    for text, expected in {"crane": "134 .* 517", "Cardigan": "264 .* 474"}.items():
        write_manifest(tmp_path, [("0.png", text)])
        with pytest.raises(ConfigError, match=f"is a name of classes {expected}.*give the number"):
            open_folder(tmp_path, names)


def test_manifest_of_the_documentation_is_read_as_documented(tmp_path):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (table,) = re.findall(r"```text\n(file,.*?)```", page, re.DOTALL)
    save(tmp_path, *(f"cats/{i}.jpg" for i in range(1, 5)))
    (tmp_path / "manifest.csv").write_text(table)
    names = read_packaged("imagenet_classes.txt")
    source = open_folder(tmp_path, names)
    assert list(labels_of(source).values()) == [281, 281, 281, UNKNOWN_LABEL]
    np.testing.assert_array_equal(source.boxes(0), [[4, 0, 96, 64.5], [8, 8, 20, 20]])
    assert list(open_folder(tmp_path, names, split="test").ids) == ["cats/3.jpg", "cats/4.jpg"]


def test_manifest_names_without_a_classifier_fail_when_read(tmp_path):
    """Training on the images alone needs no labels."""
    save(tmp_path, "a.png", "b.png")
    write_manifest(tmp_path, [("a.png", "cat"), ("b.png", "n02123045")])
    source = open_folder(tmp_path)
    assert source.decode(0).size == (4, 3)
    assert source.label(1) == 281
    with pytest.raises(ConfigError, match=r"line 2: label 'cat' .*--config\.classifier\.class_nam"):
        source.label(0)


def test_manifest_file_under_two_labels_is_two_examples(tmp_path):
    save(tmp_path, "a.png", "b.png")
    rows = [("a.png", 1), ("./a.png", "dog"), ("b.png", 2), ("a.png", "")]
    write_manifest(tmp_path, rows)
    source = open_folder(tmp_path, ("mouse", "cat", "dog"))
    expected = {"a.png#label=1": 1, "a.png#label=dog": 2, "b.png": 2, "a.png": UNKNOWN_LABEL}
    assert labels_of(source) == expected
    assert [source.decode(i).size for i in range(4)] == [(4, 3)] * 4


def test_manifest_accepts_absolute_and_windows_paths(tmp_path):
    save(tmp_path, "sub/a.png", "b.png")
    rows = [("sub\\a.png", 1), (str(tmp_path / "b.png"), 2)]
    write_manifest(tmp_path, rows)
    source = open_folder(tmp_path)
    assert [source.decode(i).size for i in range(2)] == [(4, 3)] * 2
    write_manifest(tmp_path, [*rows, ("sub/a.png", 1)])
    with pytest.raises(ConfigError, match=r"line 4: sub/a\.png is listed twice"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("sub/a.png", "sub/a.png"),
        ("./sub/a.png", "sub/a.png"),
        ("sub//a.png", "sub/a.png"),
        ("sub/../b.png", "b.png"),
        ("sub\\a.png", "sub/a.png"),
        (".\\sub\\a.png", "sub/a.png"),
        ("{folder}/b.png", "b.png"),
        ("{folder}/sub/../b.png", "b.png"),
        ("{link}/sub/a.png", "sub/a.png"),
        # Other paths are only normalised.
        ("{outside}/c.png", "{outside}/c.png"),
        ("../outside/./c.png", "../outside/c.png"),
        ("./gone.png", "gone.png"),
    ],
)
@pytest.mark.parametrize("opened", ["folder", "link"])
def test_manifest_ids_are_normalised_paths_inside_the_folder(tmp_path, opened, written, expected):
    save(tmp_path, "folder/sub/a.png", "folder/b.png", "folder/x.png", "outside/c.png")
    (tmp_path / "link").symlink_to("folder")
    places = {name: str(tmp_path / name) for name in ("folder", "link", "outside")}
    rows = [("x.png", 2), (written.format(**places), 1)]
    write_manifest(tmp_path / "folder", rows)
    if opened == "folder" and "{link}" in written:
        expected = written
    source = open_folder(tmp_path / opened)
    assert labels_of(source) == {"x.png": 2, expected.format(**places): 1}
    if "gone" not in written:
        assert source.decode(1).size == (4, 3)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"PK\x03\x04\x14\0", r"a spreadsheet \(\.xlsx\) or a zip file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", r"a spreadsheet \(\.xls\)"),
        (gzip.compress(b"file,label\na.png,3\n", mtime=0), "compressed by gzip"),
        (b"PAR1\x15", "a Parquet file"),
        (b"%PDF-1.4", "a PDF file"),
        (b"SQLite format 3\0", "a database"),
    ],
)
def test_manifest_of_another_file_type_is_named(tmp_path, start, kind):
    save(tmp_path, "a.png")
    (tmp_path / "manifest.csv").write_bytes(start + bytes(range(256)))
    with pytest.raises(ConfigError, match=rf"manifest\.csv: is {kind}; expected text: save it as"):
        open_folder(tmp_path)


def test_manifest_reports_listed_and_unlisted_files(tmp_path, log):
    save(tmp_path, "a.png", "b.png", "c.png", "sub/d.png")
    (tmp_path / "notes.txt").write_text("x")
    write_manifest(tmp_path, [("a.png", 1, 9), ("gone.png", "", 9)], ("file", "label", "weight"))
    open_folder(tmp_path)
    unused, gone, counted = log().splitlines()
    assert unused.endswith("manifest.csv: columns not used: weight")
    assert gone.endswith("manifest.csv: 1 of 2 files do not exist, such as 'gone.png'")
    assert counted == (
        "2 images listed in manifest.csv, 1 of them with a label; 4 files not read: "
        "3 not listed in manifest.csv, 1 .txt"
    )


SPELLINGS = st.sampled_from(
    ["file", "File", " file", "FILE_NAME", "file name", "Filename ", "\ufefffile"]
)
LABELS = st.sampled_from(
    ["label", "Label", "LABEL ", " label", '"label"', "labels", "lbl", "class"]
)
EDITS = st.tuples(st.integers(0, 5), st.sampled_from([0, 1]), st.text(string.printable, max_size=1))
LABEL_COLUMNS = LABELS | EDITS.map(lambda e: "label"[: e[0]] + e[2] + "label"[e[0] + e[1] :])
DELIMITERS = st.sampled_from([",", ";", "\t", "|", ", ", " ; ", ":", " ", ",,"])
ENCODINGS = st.sampled_from(
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1",
     "cp1252", "cp437", "mac-roman", "utf-7", "cp500"]
)  # fmt: skip
QUOTES = st.sampled_from(["{}", '"{}"', "'{}'", " {}", "{} "])
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])
CLASSES = ("cat", "dog", "käse", "kase", "tabby, tabby cat", "fox", "crane; heron", "crane", "1|2")
TRUTH = {"a.png": 1, "käse.png": 2, "b;c.png": 4, "d.png": 6, "e f.png": 8, "g.png": 3}


@settings(deadline=None, max_examples=400, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    file=SPELLINGS, label=LABEL_COLUMNS, delimiter=DELIMITERS, encoding=ENCODINGS, quote=QUOTES,
    end=ENDS, are_names=st.booleans(), is_swapped=st.booleans(), more=st.sampled_from(["", "x"]),
)  # fmt: skip
def test_manifest_no_spelling_silently_changes_a_label(
    folder_of_truth, file, label, delimiter, encoding, quote, end, are_names, is_swapped, more
):
    rows = [(file, label), *((n, CLASSES[i] if are_names else str(i)) for n, i in TRUTH.items())]
    lines = []
    for row in rows:
        cells = [quote.format(cell) for cell in (row[::-1] if is_swapped else row)]
        lines.append(delimiter.join(cells + [more] * bool(more)))
    content = end.join(lines).encode(encoding, errors="replace")
    (folder_of_truth / "manifest.csv").write_bytes(content)
    found, problem = {}, ""
    try:
        found = labels_of(open_folder(folder_of_truth, CLASSES))
    except ConfigError as error:
        problem = str(error)
    assert "\n" not in problem
    if problem:
        return
    assert len(found) == len(TRUTH)
    for name, index in found.items():
        # A file name in a wrong encoding matches no file, which is an error.
        assert TRUTH.get(name, index) == index
    assert list(found.values()) == list(TRUTH.values())


@pytest.fixture(scope="module")
def folder_of_truth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truth")
    save(folder, *TRUTH)
    return folder


def test_manifest_split_selects_its_rows(tmp_path):
    save(tmp_path, "a.png", "b.png", "c.png")
    rows = [("a.png", 3, "train"), ("b.png", 4, "heldout"), ("c.png", "", "train")]
    write_manifest(tmp_path, rows, header=("file", "label", "split"))
    source = open_folder(tmp_path, split="train")
    assert list(source.ids) == ["a.png", "c.png"]
    assert [source.label(i) for i in range(2)] == [3, UNKNOWN_LABEL]
    with pytest.raises(ConfigError, match=r"no image of split 'test'; .* are heldout, train"):
        open_folder(tmp_path, split="test")
    write_manifest(tmp_path, [row[:2] for row in rows])
    with pytest.raises(ConfigError, match="needs a column `split`; it has none"):
        open_folder(tmp_path, split="train")


def test_manifest_row_naming_a_folder_is_unreadable(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    write_manifest(tmp_path, [("x.jpg", 1)])
    with pytest.raises(UnreadableImageError, match=r"x\.jpg: ValueError: is not a file"):
        open_folder(tmp_path).load(0, SMALL, "crop")


def test_manifest_gives_boxes(tmp_path):
    texts = ["", "1 2 30 4.5", " 0 0 5 5 ;  6 7 8 9;", "-3 0 4 4"]
    rows = [(f"{i}.png", text) for i, text in enumerate(texts)]
    save(tmp_path, "0.png")
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
def test_manifest_refuses_bad_boxes(tmp_path, text):
    write_manifest(tmp_path, [("a.png", text)], header=("file", "boxes"))
    with pytest.raises(ConfigError, match=rf"line 2: .*{text.split()[-1]}.*column `boxes` such as"):
        open_folder(tmp_path)


@pytest.mark.parametrize("orientation", [1, 6])
def test_fitted_boxes_need_no_decoding(tmp_path, monkeypatch, orientation):
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
