"""Records are written and read back, and survive kills and damage."""

import itertools
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import xarray
import zarr

from cfx_jax import records
from cfx_jax.records import (
    Field,
    ManifestMismatchError,
    RecordReader,
    RecordsError,
    RecordWriter,
    Storage,
    claim_folder,
)

FIELDS = (
    Field("id", "uint8", (12,), ("id_byte",)),
    Field("label", "int32"),
    Field("valid", "bool"),
    Field("image", "uint8", (4, 6, 3), ("y", "x", "channel")),
    Field("ssr_mask_logits", "float16", (2, 3)),
    Field("ssr_log_odds", "float32"),
)
MANIFEST = {
    "config": {"explain": {"num_steps": 100, "sizes": (1, 2)}, "name": "vgg"},
    "environment": {"jax": "1"},
}
NUM_EXAMPLES, UNIT_SIZE = 10, 4


writers = []  # of the run that is open now


def open_writer(workdir, manifest=MANIFEST, fields=FIELDS, num_examples=NUM_EXAMPLES, **host):
    """Opens a folder like a restarted run, after the run before it has ended."""
    if "host" not in host:
        end_run()
    writers.append(RecordWriter(workdir, manifest, fields, num_examples, UNIT_SIZE, **host))
    return writers[-1]


def end_run():
    while writers:
        writers.pop().close()


def make_values(start, stop):
    """Returns values that depend on the index of an example only."""
    rngs = [np.random.default_rng(index) for index in range(start, stop)]
    images = [rng.integers(0, 256, (4, 6, 3), np.uint8) for rng in rngs]
    return {
        "id": records.encode_ids([f"ex é {index}" for index in range(start, stop)], 12),
        "label": np.arange(start, stop, dtype=np.int32) - 5,
        "valid": np.arange(start, stop) % 2 == 0,
        "image": np.stack(images),
        "ssr_mask_logits": np.stack([rng.normal(size=(2, 3)) for rng in rngs]).astype("float16"),
        "ssr_log_odds": np.arange(start, stop, dtype=np.float32) / 2 - 1,
    }


def write_missing(writer, units=None):
    for unit in writer.missing_units() if units is None else units:
        writer.write_unit(unit, make_values(*writer.unit_range(unit)))


def assert_complete_units_right(workdir):
    """Checks that each unit is absent or has the right content; returns the complete units."""
    reader, writer = RecordReader(workdir), open_writer(workdir)
    missing = writer.missing_units()
    units = [unit for unit in range(3) if unit not in missing]
    for unit in range(3):
        start, stop = writer.unit_range(unit)
        assert reader.complete[start:stop].tolist() == [unit in units] * (stop - start)
        if unit in units:
            for name, value in make_values(start, stop).items():
                np.testing.assert_array_equal(reader.read(name, start, stop), value)
    return units


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_unit_range_covers_the_examples_with_a_shorter_last_unit(tmp_path):
    writer = open_writer(tmp_path / "deep" / "run")
    assert writer.missing_units() == [0, 1, 2]
    assert [writer.unit_range(unit) for unit in range(3)] == [(0, 4), (4, 8), (8, 10)]
    for unit in (-1, 3):
        with pytest.raises(ValueError, match=re.escape(f"unit must be in [0, 3), got {unit}")):
            writer.unit_range(unit)


def test_record_reader_round_trip_and_fill_values(tmp_path):
    writer = open_writer(tmp_path)
    write_missing(writer, [0, 2])
    assert writer.missing_units() == [1]
    reader = RecordReader(tmp_path)
    assert reader.fields == FIELDS
    assert reader.num_examples == NUM_EXAMPLES
    assert reader.complete.dtype == bool
    assert reader.complete.tolist() == [True] * 4 + [False] * 4 + [True] * 2
    assert assert_complete_units_right(tmp_path) == [0, 2]
    assert reader.ids() == [f"ex é {i}" if i < 4 or i > 7 else "" for i in range(10)]
    assert np.isnan(reader.read("ssr_mask_logits", 4, 8)).all()
    assert not reader.read("image", 4, 8).any()
    assert not reader.read("valid", 4, 8).any()
    assert reader.read("label", -2).tolist() == [3, 4]
    assert reader.read("image", 7, 3).shape == (0, 4, 6, 3)
    write_missing(writer)
    assert reader.complete.all(), "a reader sees what is written after it was opened"
    with pytest.raises(KeyError, match="no field 'lable'; it has id, label"):
        reader.read("lable")


def test_store_is_readable_by_zarr_and_xarray(tmp_path):
    write_missing(open_writer(tmp_path))
    store = tmp_path / "records.zarr"
    group = zarr.open_group(store, mode="r")
    dataset = xarray.open_zarr(store, chunks=None)
    assert sorted(group.array_keys()) == sorted(dataset.data_vars)
    assert set(dataset.data_vars) == {"complete"} | {field.name for field in FIELDS}
    for name, value in make_values(0, 10).items():
        np.testing.assert_array_equal(group[name][:], value)
        np.testing.assert_array_equal(dataset[name].values, value)
        assert group[name].dtype == dataset[name].dtype == value.dtype
    assert dataset["image"].dims == ("example", "y", "x", "channel")
    assert dataset["ssr_mask_logits"].dims == ("example", "ssr_mask_logits_0", "ssr_mask_logits_1")
    assert dataset.sizes["example"] == NUM_EXAMPLES
    assert group["image"].chunks == (UNIT_SIZE, 4, 6, 3)


TEXTS = ["", "käse/ü.png", "日本", "a\0b", *(f"{n}.jpg" for n in range(6))]


@pytest.mark.parametrize("consolidated", [True, False])
def test_store_ids_and_names_are_text_for_other_libraries(consolidated, tmp_path):
    label_attributes = {"long_name": "class", "flag_values": [0, 1]}
    fields = (Field("label", "int32", attributes=label_attributes), Field("valid", "bool"))
    attributes = {"class_names": ["ant", "bee"]}
    open_writer(tmp_path, fields=fields, ids=TEXTS, attributes=attributes)
    dataset = xarray.open_zarr(
        tmp_path / "records.zarr", chunks=None, consolidated=consolidated
    ).load()
    assert dataset["example"].values.tolist() == TEXTS
    assert dataset.sel(example="日本")["label"].values == 0
    assert (dataset.attrs, dataset["label"].attrs) == (attributes, label_attributes)
    # Another process of the run, one of a later version, and one of an earlier version.
    for again in ({"ids": TEXTS}, {"ids": TEXTS, "attributes": {"more": 1}}, {}):
        open_writer(tmp_path, fields=[Field("label", "int32"), Field("valid", "bool")], **again)
        group = zarr.open_group(tmp_path / "records.zarr", mode="r")
        assert (dict(group.attrs), dict(group["label"].attrs)) == (attributes, label_attributes)


def test_store_of_an_earlier_version_continues_without_texts(tmp_path):
    write_missing(open_writer(tmp_path), [0])
    assert "example" not in xarray.open_zarr(tmp_path / "records.zarr", chunks=None).coords
    write_missing(open_writer(tmp_path, ids=TEXTS))
    assert RecordReader(tmp_path).complete.all()
    assert "example" not in xarray.open_zarr(tmp_path / "records.zarr", chunks=None).coords


def test_record_writer_refuses_ids_of_other_examples(tmp_path):
    with pytest.raises(ValueError, match="3 ids are given for 10 examples"):
        open_writer(tmp_path, ids=TEXTS[:3])
    with pytest.raises(ValueError, match=r"id '\\udc80' cannot be written as UTF-8"):
        open_writer(tmp_path, ids=["\udc80", *TEXTS[1:]])


def test_record_writer_hosts_own_every_other_unit(tmp_path):
    end_run()
    first, second = (open_writer(tmp_path, host=host, num_hosts=2) for host in range(2))
    assert (first.missing_units(), second.missing_units()) == ([0, 2], [1])
    with pytest.raises(ValueError, match="unit 1 belongs to host 1 of 2, this is host 0"):
        write_missing(first, [1])
    write_missing(first)
    assert (first.missing_units(), second.missing_units()) == ([], [1])
    write_missing(second)
    assert assert_complete_units_right(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize(("host", "num_hosts"), [(-1, 1), (1, 1), (2, 2)])
def test_record_writer_refuses_a_host_index_out_of_range(tmp_path, host, num_hosts):
    with pytest.raises(ValueError, match=rf"host must be in \[0, {num_hosts}\), got {host}"):
        open_writer(tmp_path / "run", host=host, num_hosts=num_hosts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("running", "starting"),
    [((0, 1), (0, 1)), ((1, 2), (1, 2)), ((0, 1), (1, 2)), ((1, 2), (0, 1)), ((2, 3), (0, 2))],
)
def test_record_writer_refuses_a_second_run_during_the_first(tmp_path, running, starting):
    end_run()
    first = open_writer(tmp_path, host=running[0], num_hosts=running[1])
    with pytest.raises(RecordsError, match=f"{tmp_path}: another run is writing to it"):
        open_writer(tmp_path, host=starting[0], num_hosts=starting[1])
    write_missing(first)
    end_run()
    write_missing(open_writer(tmp_path, host=starting[0], num_hosts=starting[1]))


def test_record_writer_accepts_a_relative_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_missing(open_writer("run"))
    assert RecordReader(pathlib.Path("run")).complete.all()


def test_missing_units_include_a_partly_written_unit(tmp_path):
    writer = open_writer(tmp_path)
    write_missing(writer, [0])
    group = zarr.open_group(tmp_path / "records.zarr", mode="r+")
    for name, value in make_values(4, 8).items():
        group[name][4:8] = np.zeros_like(value)
    assert writer.missing_units() == [1, 2]
    assert RecordReader(tmp_path).complete.sum() == 4
    write_missing(open_writer(tmp_path))
    assert assert_complete_units_right(tmp_path) == [0, 1, 2]


def test_write_unit_writes_the_commit_mark_last(tmp_path):
    writer = open_writer(tmp_path)
    store = tmp_path / "records.zarr"
    (store / "label" / "c").write_text("in the way of the chunks of one field")
    with pytest.raises(OSError, match=r"cannot write unit 0 into .* \(Not a directory\)"):
        write_missing(writer, [0])
    assert (store / "image" / "c").exists()
    assert not RecordReader(tmp_path).complete.any()


def test_write_unit_refuses_a_unit_written_before(tmp_path):
    writer = open_writer(tmp_path)
    write_missing(writer)
    with pytest.raises(ValueError, match=r"unit 2 \(examples 8 to 9\) is complete already"):
        write_missing(writer, [2])


def test_record_writer_resumes_after_a_kill_before_the_arrays(tmp_path):
    write_missing(open_writer(tmp_path / "whole"))
    (tmp_path / "run").mkdir()
    manifest = (tmp_path / "whole" / "manifest.json").read_bytes()
    (tmp_path / "run" / "manifest.json").write_bytes(manifest)
    with pytest.raises(ValueError, match=r"array 'id' of records\.zarr is missing or damaged"):
        RecordReader(tmp_path / "run")
    write_missing(open_writer(tmp_path / "run"))
    assert RecordReader(tmp_path / "run").complete.all()
    assert xarray.open_zarr(tmp_path / "run" / "records.zarr", chunks=None)["complete"].all()


def test_record_writer_refuses_another_layout_with_a_diff(tmp_path):
    write_missing(open_writer(tmp_path), [0])
    before = snapshot(tmp_path)
    with pytest.raises(ManifestMismatchError) as caught:
        open_writer(tmp_path, MANIFEST, FIELDS[1:], num_examples=11)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  records.num_examples: stored 10, now 11"
    assert lines[2].startswith("  records.fields.id: removed (stored {")
    assert len(lines) == 4
    assert snapshot(tmp_path) == before


def test_record_reader_names_a_damaged_layout(tmp_path):
    open_writer(tmp_path)
    (tmp_path / "manifest.json").write_text('{"records": {"num_examples": 3}}')
    with pytest.raises(ValueError, match='entry "records" is damaged'):
        RecordReader(tmp_path)


def test_record_reader_refuses_a_folder_of_something_else(tmp_path):
    """Trainings also claim their folder with a manifest."""
    claim_folder(Storage(tmp_path), {"config": {}}, {})
    with pytest.raises(RecordsError, match=r"contains no records.*such as a training"):
        RecordReader(tmp_path)


def test_record_reader_refuses_a_store_without_manifest(tmp_path):
    write_missing(open_writer(tmp_path))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds records\.zarr but no manifest\.json"):
        open_writer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        RecordReader(tmp_path)


def test_record_reader_notices_a_damaged_chunk(tmp_path):
    write_missing(open_writer(tmp_path))
    chunk = tmp_path / "records.zarr" / "image" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    reader = RecordReader(tmp_path)
    message = r"examples 0 to 9 of image are damaged \(.*image/c/0/0/0/0.*checksum.*computed again"
    with pytest.raises(RecordsError, match=message):
        reader.read("image")
    assert reader.read("image", 4).shape == (6, 4, 6, 3)


DAMAGES = {
    "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "other": lambda data: b"not a chunk at all",
}


@pytest.mark.parametrize("name", ["image/c/1/0/0/0", "label/c/1", "complete/c/1"])
@pytest.mark.parametrize("damage", [*DAMAGES, "deleted"])
def test_missing_units_include_a_damaged_unit(tmp_path, name, damage, caplog):
    write_missing(open_writer(tmp_path))
    before = snapshot(tmp_path)
    chunk = tmp_path / "records.zarr" / name
    if damage == "deleted":
        chunk.unlink()
    else:
        chunk.write_bytes(DAMAGES[damage](chunk.read_bytes()))
    again = open_writer(tmp_path)
    assert again.missing_units() == [1]
    if not name.startswith("complete"):
        assert f"unit 1 is damaged, and computed again: {{'{name.split('/')[0]}'" in caplog.text
    assert RecordReader(tmp_path).complete.tolist() == [True] * 4 + [False] * 4 + [True] * 2
    write_missing(again)
    assert snapshot(tmp_path) == before


def test_damage_distinguishes_a_blank_chunk_from_a_lost_one(tmp_path):
    writer = open_writer(tmp_path)
    blank = {name: np.zeros_like(value) for name, value in make_values(0, 4).items()}
    blank["ssr_log_odds"][:] = np.nan
    writer.write_unit(0, blank)
    assert list(RecordReader(tmp_path).damage()) == [(0, {})]
    (tmp_path / "records.zarr/ssr_log_odds/c/0").unlink()
    [(unit, problems)] = RecordReader(tmp_path).damage()
    assert (unit, list(problems)) == (0, ["ssr_log_odds"])


FULL_DISK = """
import os, subprocess, sys
import numpy as np
from cfx_jax.records import Field, RecordReader, RecordWriter
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", folder], check=True)
values = np.random.default_rng(0).integers(0, 256, (1, 30_000), np.uint8)
with RecordWriter(f"{folder}/run", {}, [Field("a", "uint8", (30_000,))], 20, 1) as writer:
    try:
        for unit in writer.missing_units():
            writer.write_unit(unit, {"a": values})
    except OSError as error:
        print(error.errno, error)
    print(RecordReader(f"{folder}/run").complete.sum(), writer.missing_units()[0])
    subprocess.run(["mount", "-o", "remount,size=2m", folder], check=True)
    for unit in writer.missing_units():
        writer.write_unit(unit, {"a": values})
    reader = RecordReader(f"{folder}/run")
    print(reader.complete.all(), (reader.read("a") == values).all())
"""


def test_record_writer_on_a_full_disk_loses_one_unit(tmp_path):
    """Uses a small file system that only this process sees."""
    process = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    failure, kept, recovered = process.stdout.splitlines()
    written, missing = map(int, kept.split())
    assert 3 <= written == missing <= 6
    assert failure == (
        f"28 [Errno 28] cannot write unit {missing} into {tmp_path}/run, all before it are safe "
        "(No space left on device); free some space and resume with the same command"
    )
    assert recovered == "True True"


def test_store_refuses_an_address_of_another_kind():
    for opened in (open_writer, RecordReader):
        with pytest.raises(RecordsError, match=r"workdir az://bucket/run: expected a folder"):
            opened("az://bucket/run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "lack the fields label"),
        ({"labels": np.zeros(4)}, "unknown fields labels"),
        ({"complete": np.zeros(4, np.uint8)}, "unknown fields complete"),
        ({"label": np.zeros(3, np.int32)}, r"'label' must be int32 \[4\], got int32 \[3\]"),
        ({"label": np.zeros(4)}, r"'label' must be int32 \[4\], got float64 \[4\]"),
        ({"image": np.zeros((4, 6, 4, 3), np.uint8)}, r"'image' must be uint8 \[4, 4, 6, 3\]"),
    ],
)
def test_write_unit_with_unusable_values_writes_nothing(tmp_path, changes, message):
    writer = open_writer(tmp_path)
    before = snapshot(tmp_path)
    values = {k: v for k, v in (make_values(0, 4) | changes).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        writer.write_unit(0, values)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("No", "uint8"), "no identifier"),
        (("../up", "uint8"), "no identifier"),
        (("a", "float33"), "unknown dtype 'float33'"),
        (("a", "complex64"), "must be bool, integer or float"),
        (("a", "uint8", (2, 0)), ">= 1"),
        (("a", "uint8", (2, 3), ("y",)), "each of the 2 axes"),
        (("a", "uint8", (2, 3), ("y", "y")), "each of the 2 axes"),
    ],
)
def test_field_refuses_unusable_definitions(arguments, message):
    with pytest.raises(ValueError, match=message):
        Field(*arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "unique names"),
        ([Field("a", "uint8"), Field("a", "int32")], "unique names"),
        ([Field("complete", "uint8")], "other than 'complete'"),
        ([Field("a", "uint8", (2,), ("example",))], "axis name 'example' .size 2. is taken"),
        ([Field("a", "uint8", (2,), ("a",))], "axis name 'a'"),
        ([Field("a", "uint8", (2,), ("y",)), Field("b", "uint8", (3,), ("y",))], "field 'b'"),
    ],
)
def test_record_writer_refuses_an_unusable_layout(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        open_writer(tmp_path / "run", fields=fields)
    with pytest.raises(ValueError, match="num_examples and unit_size must be >= 1, got 0 and 4"):
        open_writer(tmp_path / "run", num_examples=0)
    assert not (tmp_path / "run").exists()


def test_encode_ids_round_trip():
    ids = ["a/b.png", "", "Füchse", "狐狸", "n" * 12]
    encoded = records.encode_ids(ids, 12)
    assert encoded.shape == (5, 12)
    assert encoded.dtype == np.uint8
    assert records.decode_ids(encoded) == ids
    assert records.decode_ids(encoded[:, ::-1][:, ::-1]) == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [("狐狸", "takes 6 bytes, more than the width 5"), ("a\0", "NUL"), ("\udcff", "UTF-8")],
)
def test_encode_ids_refuses_unusable_ids(text, message):
    with pytest.raises(ValueError, match=message):
        records.encode_ids([text], 5)


RUN = """
import sys
import numpy as np
from cfx_jax.records import Field, RecordWriter
fields = [Field("a", "float32", (64, 64)), Field("b", "int32")]
writer = RecordWriter(sys.argv[1], {}, fields, num_examples=1200, unit_size=4)
print("open", flush=True)
for unit in writer.missing_units():
    rows = np.arange(*writer.unit_range(unit), dtype=np.int32)
    values = np.broadcast_to(rows[:, None, None], (4, 64, 64)).astype(np.float32)
    writer.write_unit(unit, {"a": values, "b": rows})
    print(unit, flush=True)
"""


@pytest.mark.slow
def test_record_writer_killed_leaves_whole_units(tmp_path, monkeypatch):
    monkeypatch.chdir(pathlib.Path(records.__file__).parents[1])
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    written = []
    for lines in (1, 3, 8):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            seen = list(itertools.islice(process.stdout, lines))
            process.kill()  # SIGKILL, somewhere in a later unit
            written += [int(line) for line in [*seen, *process.stdout] if line != "open\n"]
        assert process.returncode == -9
        reader = RecordReader(tmp_path)
        units = reader.complete.reshape(-1, 4)
        assert (units.all(axis=1) == units.any(axis=1)).all()
        assert units[written].all(), "a unit once reported as written stays"
        assert not units.all()
        for start in 4 * np.flatnonzero(units[:, 0]):
            rows = np.arange(start, start + 4)
            np.testing.assert_array_equal(reader.read("b", start, start + 4), rows)
            assert (reader.read("a", start, start + 4) == rows[:, None, None]).all()
    rest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1:]
    assert sorted(map(int, rest)) == np.flatnonzero(~units[:, 0]).tolist()
    assert reader.complete.all()
    rows = np.arange(1200)
    np.testing.assert_array_equal(reader.read("b"), rows)
    assert (reader.read("a") == rows[:, None, None]).all()
