"""Records are compared with their data: unchanged, or changed under the same ids."""

import functools
import io
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from cfx_jax.config import Config, DataConfig, ExplainConfig, ReportConfig
from cfx_jax.data import load_units, open_source
from cfx_jax.records import Field, ManifestMismatchError, RecordReader, RecordWriter, encode_ids
from cfx_jax.runs.explanations import make_fields, make_values
from cfx_jax.runs.same_data import check_same_data, name_other_id

NUM_IMAGES, UNIT_SIZE = 7, 2
VALUES, LABELS = [30 * index for index in range(NUM_IMAGES)], [*range(NUM_IMAGES)]


def draw(value):
    return np.full((9, 8, 3), value, np.uint8)


def encode(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def write_folder(folder, values, labels):
    folder.mkdir(exist_ok=True)
    rows = ["file,label"]
    for index, (value, label) in enumerate(zip(values, labels, strict=True)):
        Image.fromarray(draw(value)).save(folder / f"{index}.bmp")
        rows.append(f"{index}.bmp,{'' if label < 0 else label}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return DataConfig("folder", path=str(folder))


def write_npz(folder, values, labels):
    folder.mkdir(exist_ok=True)
    np.savez(folder / "a.npz", images=np.stack([draw(value) for value in values]), labels=labels)
    return DataConfig("npz", path=str(folder / "a.npz"))


def write_tfds(prepare_tfds, folder, values, labels):
    import tensorflow_datasets as tfds

    shutil.rmtree(folder, ignore_errors=True)
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    examples = {
        index: {"image": encode(draw(value)), "label": label}
        for index, (value, label) in enumerate(zip(values, labels, strict=True))
    }
    # Shuffling would depend on the examples.
    prepare_tfds(folder, "same_data", features, {"test": examples}, disable_shuffling=True)
    return DataConfig("tfds", name="same_data", split="test", path=str(folder))


def record(source, workdir):
    """Writes the records of a run, without explanations."""
    config = Config(explain=ExplainConfig("ssr", mask_size=2), report=ReportConfig(False))
    fields = make_fields(config, source.ids, (8, 8))
    with RecordWriter(workdir, {}, fields, len(source), UNIT_SIZE) as writer:
        units = {unit: range(*writer.unit_range(unit)) for unit in writer.missing_units()}
        for examples in load_units(source, units.items(), (8, 8, 3), "stretch"):
            writer.write_unit(examples.unit, make_values(fields, examples, {}))
    return RecordReader(workdir)


def check(reader, source):
    now = {"label": source.label, "digest": source.digest}
    return check_same_data(reader, source.ids, now)


def change(values, *places):
    return [value + 1 if index in places else value for index, value in enumerate(values)]


@pytest.fixture(scope="module", params=["folder", "npz", "tfds"])
def recorded(request, tmp_path_factory, prepare_tfds):
    """A function that writes the data again in the same place, and the records of the data."""
    folder = tmp_path_factory.mktemp(request.param)
    writers = {
        "folder": write_folder,
        "npz": write_npz,
        "tfds": functools.partial(write_tfds, prepare_tfds),
    }

    def write(values, labels):
        return open_source(writers[request.param](folder / "data", values, labels))

    return write, record(write(VALUES, LABELS), folder / "run")


def test_same_data_accepts_data_that_moved(recorded):
    write, reader = recorded
    assert check(reader, write(VALUES, LABELS)) == []


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        (VALUES, change(LABELS, 3), {3: "label 3 then, 4 now"}),
        (change(VALUES, 0, 6), LABELS, {0: "other bytes", 6: "other bytes"}),
        (change(VALUES, 2), change(LABELS, 2), {2: "label 2 then, 3 now, other bytes"}),
    ],
)
def test_same_data_refuses_other_data_under_the_same_ids(recorded, values, labels, expected):
    write, reader = recorded
    source = write(values, labels)
    with pytest.raises(ManifestMismatchError) as caught:
        check(reader, source)
    first, *found, last = str(caught.value).splitlines()
    assert first == f"{reader.location} holds results of other data; nothing in it was changed."
    assert re.match("Put the former data back, choose another --workdir, or delete this", last)
    assert found == [f"  {source.ids[index]}: {text}" for index, text in expected.items()]


@pytest.fixture
def folder(tmp_path):
    """Data in a folder, whose last image is missing."""
    write_folder(tmp_path / "data", VALUES, [-1, *LABELS[1:]])
    (tmp_path / "data" / "6.bmp").rename(tmp_path / "6.bmp")
    return tmp_path


def open_folder(folder):
    return open_source(DataConfig("folder", str(folder / "data")))


def test_same_data_names_the_first_of_many_differences(folder):
    reader = record(open_folder(folder), folder / "run")
    write_folder(folder / "data", change(VALUES, *range(7)), LABELS)
    with pytest.raises(ManifestMismatchError) as caught:
        check(reader, open_folder(folder))
    assert [line.strip() for line in str(caught.value).splitlines()[1:-1]] == [
        "0.bmp: label unknown then, 0 now, other bytes",
        *(f"{index}.bmp: other bytes" for index in range(1, 5)),
        "... and 1 more",
    ]


def test_same_data_refuses_examples_that_became_unreadable(folder):
    reader = record(open_folder(folder), folder / "run")
    (folder / "data" / "1.bmp").unlink()
    (folder / "data" / "1.bmp").mkdir()
    with pytest.raises(ManifestMismatchError, match=r"\n  1\.bmp: cannot be read now\n"):
        check(reader, open_folder(folder))


def test_same_data_recomputes_examples_that_became_readable(folder, caplog):
    reader = record(open_folder(folder), folder / "run")
    assert check(reader, open_folder(folder)) == []
    (folder / "6.bmp").rename(folder / "data" / "6.bmp")
    assert check(reader, open_folder(folder)) == [3]
    assert "unit 3: 6.bmp could not be read when it was recorded, but can be now" in caplog.text


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ("abcdefg", ""),
        ("abcdefx", "example 6: g then, x now"),
        ("aycdefx", "example 1: b then, y now"),
        ("xbyz", "example 2: c then, y now"),
        ("xbcd", "example 4: e then, none now"),
        ("xbcdefgh", ""),
    ],
)
def test_name_other_id_names_the_first_differing_id(ids, expected, tmp_path):
    fields = [Field("id", "uint8", (1,))]
    with RecordWriter(tmp_path, {}, fields, NUM_IMAGES, UNIT_SIZE) as writer:
        for unit in range(4):
            start, stop = writer.unit_range(unit)
            writer.write_unit(unit, {"id": encode_ids([*"abcdefg"[start:stop]], 1)})
        if ids[0] == "x":  # What is not recorded is not compared.
            writer.forget(0)
    assert name_other_id(tmp_path, [*ids]) == expected


def test_same_data_each_host_compares_its_complete_units(folder, monkeypatch):
    """The first host compares all units, because it writes the gallery of all of them."""
    reader = record(open_folder(folder), folder / "run")
    (folder / "run/records.zarr/complete/c/0").unlink()
    (folder / "run/records.zarr/digest/c/2").write_bytes(b"damaged")
    monkeypatch.setattr(jax, "process_count", lambda: 3)

    def check_on_all_hosts():
        for host in range(3):
            monkeypatch.setattr(jax, "process_index", lambda host=host: host)
            try:
                yield check(reader, open_folder(folder))
            except ManifestMismatchError as error:
                yield [line for line in str(error).splitlines() if line.startswith("  ")]

    (folder / "6.bmp").rename(folder / "data" / "6.bmp")
    assert [*check_on_all_hosts()] == [[3], [], []]
    write_folder(folder / "data", change(VALUES, 0, 2, 3, 4), [-1, *LABELS[1:]])
    others = ["  2.bmp: other bytes", "  3.bmp: other bytes"]
    assert [*check_on_all_hosts()] == [others, others, []]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    (folder / "run/records.zarr/complete/c/1").unlink()
    assert [*check_on_all_hosts()][:2] == [[], [3]]
