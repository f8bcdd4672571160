"""Digests of content: another one for other content, the same wherever and whenever it lies."""

import hashlib
import os
import shutil

import numpy as np
import pytest

from cfx_jax.data.digests import UNREADABLE, digest, digest_array, digest_file

KIB = 1024
CONTENT = np.random.default_rng(0).bytes(1000 * KIB)


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [0, 1, 16 * KIB, 16 * KIB + 1, 40 * KIB, 48 * KIB])
def test_every_byte_of_a_small_file_counts(size, tmp_path):
    content = CONTENT[:size]
    digests = {digest_file(write(tmp_path / "a", content))}
    places = sorted({*range(0, size, 4093), *([size - 1] if size else [])})
    for place in places:
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        digests.add(digest_file(write(tmp_path / "a", changed)))
    digests.add(digest_file(write(tmp_path / "a", content + b"\0")))
    assert len(digests) == len(places) + 2
    assert UNREADABLE not in digests


@pytest.mark.parametrize("place", [0, 16 * KIB - 1, 500 * KIB, 984 * KIB, 1000 * KIB - 1])
def test_of_a_large_file_the_ends_and_the_middle_count(place, tmp_path):
    changed = CONTENT[:place] + bytes([CONTENT[place] ^ 1]) + CONTENT[place + 1 :]
    assert digest_file(write(tmp_path / "a", changed)) != digest_file(
        write(tmp_path / "b", CONTENT)
    )


@pytest.mark.parametrize(
    "changed", [CONTENT[:-1], CONTENT[: 200 * KIB] + b"\0" + CONTENT[200 * KIB :]]
)
def test_the_size_of_a_file_counts(changed, tmp_path):
    assert digest_file(write(tmp_path / "a", changed)) != digest_file(
        write(tmp_path / "b", CONTENT)
    )


def test_name_place_and_times_of_a_file_do_not_count(tmp_path):
    path = write(tmp_path / "a.png", CONTENT)
    before = digest_file(path)
    (tmp_path / "other").mkdir()
    copy = shutil.copyfile(path, tmp_path / "other" / "b.jpg")
    os.utime(copy, (1, 1))
    assert digest_file(copy) == before


def test_what_one_version_has_written_is_known_to_the_next_one(tmp_path):
    expected = hashlib.blake2b(b"3\0abc", digest_size=8).digest()
    assert digest_file(write(tmp_path / "a", b"abc")) == int.from_bytes(expected, "little")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "name that cannot be"])
def test_what_is_no_file_has_no_digest(kind, tmp_path):
    path = tmp_path / "a.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        path = f"{path}\0"
    assert digest_file(path) == UNREADABLE


def test_values_type_and_shape_of_an_array_count():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    changed = array.copy()
    changed[2, 3] = 0
    others = [changed, array.reshape(4, 3), array.astype(np.int8), array.T, array[:2]]
    assert len({digest_array(a) for a in (array, *others)}) == 6
    whole = np.arange(24, dtype=np.uint8).reshape(3, 8)
    strided = (whole * 2)[:, ::2]
    assert digest_array(strided) == digest_array(np.ascontiguousarray(strided))


def test_parts_are_digested_as_if_they_were_one():
    assert digest(b"ab", b"c") == digest(b"abc") != digest(b"abd")
    assert 0 < digest() < 2**64
