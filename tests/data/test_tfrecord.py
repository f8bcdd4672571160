"""TFRecord files of tensorboardX: every record is found, damage is reported with its position."""

import concurrent.futures
import os

import numpy as np
import pytest
from tensorboardX.record_writer import RecordWriter

from cfx_jax.data._tfrecord import Shard, TFRecordError, TFRecords, _masked_crc32c

LENGTHS = [5, 0, 1, 300, 70_000]
# Length, its checksum, and the checksum of the bytes.
FRAME = 16


def random_records(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.bytes(length) for length in LENGTHS]


def write(path, records):
    writer = RecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)


def open_whole(path, num_records=5):
    return TFRecords([Shard(str(path), num_records, 0, num_records)])


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_masked_crc32c_equals_the_standard(data, checksum):
    """RFC 3720, B.4; masked by turning it and adding a constant."""
    turned = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    assert _masked_crc32c(data) == (turned + 0xA282EAD8) % 2**32


def test_tfrecords_are_found_by_number(tmp_path):
    records = random_records()
    source = open_whole(write(tmp_path / "a", records))
    assert len(source) == len(records)
    for index in (3, 0, 4, 1, 2, 4):
        assert source[index] == records[index]


def test_tfrecords_number_shard_parts_in_order(tmp_path):
    a, b = random_records(1), random_records(2)
    path_a, path_b = write(tmp_path / "a", a), write(tmp_path / "b", b)
    source = TFRecords([Shard(path_b, 5, 3, 2), Shard(path_a, 5, 0, 4), Shard(path_b, 5, 0, 1)])
    assert [source[index] for index in range(len(source))] == [*b[3:], *a[:4], b[0]]


def test_tfrecords_are_read_by_several_threads(tmp_path):
    records = random_records()
    source = open_whole(write(tmp_path / "a", records))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, [0, 1, 2, 3, 4] * 50)) == records * 50


def test_tfrecords_keep_no_file_open(tmp_path):
    """ImageNet has as many files as a process may keep open."""
    paths = [write(tmp_path / str(index), [b"one"]) for index in range(20)]
    before = len(os.listdir("/dev/fd"))
    source = TFRecords([Shard(path, 1, 0, 1) for path in paths])
    assert {source[index] for index in range(20)} == {b"one"}
    assert len(os.listdir("/dev/fd")) == before


STARTS = np.cumsum([0, *(length + FRAME for length in LENGTHS)])


@pytest.mark.parametrize("record", range(5))
@pytest.mark.parametrize("kept", [1, 11, 12, -1])
def test_tfrecords_refuse_a_truncated_file(tmp_path, record, kept):
    """The cuts lie in the length, in its checksum, before the bytes and before the last byte."""
    path = write(tmp_path / "a", random_records())
    size = STARTS[record] + kept if kept > 0 else STARTS[record + 1] + kept
    os.truncate(path, size)
    message = f"{path}: the record that begins at byte {STARTS[record]} is cut off .* {size}$"
    with pytest.raises(TFRecordError, match=message):
        open_whole(path)


@pytest.mark.parametrize("record", range(5))
@pytest.mark.parametrize("place", [0, 7, 8, 11])
def test_tfrecords_refuse_a_damaged_header(tmp_path, record, place):
    path = tmp_path / "a"
    write(path, random_records())
    content = bytearray(path.read_bytes())
    content[STARTS[record] + place] ^= 4
    path.write_bytes(content)
    with pytest.raises(TFRecordError, match=f"no record begins at byte {STARTS[record]}$"):
        open_whole(path)


@pytest.mark.parametrize("expected", [0, 4, 6])
def test_tfrecords_refuse_another_number_of_records(tmp_path, expected):
    path = write(tmp_path / "a", random_records())
    with pytest.raises(
        TFRecordError, match=rf"contains 5 .* byte {STARTS[-1]}; expected {expected}$"
    ):
        open_whole(path, expected)


def test_tfrecords_truncated_later_fail_when_read(tmp_path):
    path = write(tmp_path / "a", random_records())
    source = open_whole(path)
    os.truncate(path, STARTS[3] + 100)
    assert source[2] == random_records()[2]
    with pytest.raises(TFRecordError, match=f"{path}: cut off at byte {STARTS[3] + 100}"):
        source[3]


def test_tfrecords_name_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        open_whole(tmp_path / "gone")


def test_tfrecords_without_shards_are_empty():
    assert len(TFRecords([])) == 0
