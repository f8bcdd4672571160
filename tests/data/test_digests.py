"""Digests change with the content, and do not depend on paths and modification times."""

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
def test_digest_file_depends_on_every_byte_of_a_small_file(size, tmp_path):
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
def test_digest_file_depends_on_ends_and_middle_of_a_large_file(place, tmp_path):
    changed = CONTENT[:place] + bytes([CONTENT[place] ^ 1]) + CONTENT[place + 1 :]
    assert digest_file(write(tmp_path / "a", changed)) != digest_file(
        write(tmp_path / "b", CONTENT)
    )


@pytest.mark.parametrize(
    "changed", [CONTENT[:-1], CONTENT[: 200 * KIB] + b"\0" + CONTENT[200 * KIB :]]
)
def test_digest_file_depends_on_the_size(changed, tmp_path):
    assert digest_file(write(tmp_path / "a", changed)) != digest_file(
        write(tmp_path / "b", CONTENT)
    )


def test_digest_file_ignores_name_place_and_times(tmp_path):
    path = write(tmp_path / "a.png", CONTENT)
    before = digest_file(path)
    (tmp_path / "other").mkdir()
    copy = shutil.copyfile(path, tmp_path / "other" / "b.jpg")
    os.utime(copy, (1, 1))
    assert digest_file(copy) == before


def test_digests_are_stable_across_versions(tmp_path):
    expected = hashlib.blake2b(b"3\0abc", digest_size=8).digest()
    assert digest_file(write(tmp_path / "a", b"abc")) == int.from_bytes(expected, "little")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "name that cannot be"])
def test_digest_file_of_a_non_file_is_unreadable(kind, tmp_path):
    path = tmp_path / "a.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        path = f"{path}\0"
    assert digest_file(path) == UNREADABLE


def test_digest_array_depends_on_values_type_and_shape():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    changed = array.copy()
    changed[2, 3] = 0
    others = [changed, array.reshape(4, 3), array.astype(np.int8), array.T, array[:2]]
    assert len({digest_array(a) for a in (array, *others)}) == 6
    whole = np.arange(24, dtype=np.uint8).reshape(3, 8)
    strided = (whole * 2)[:, ::2]
    assert digest_array(strided) == digest_array(np.ascontiguousarray(strided))


def test_digest_of_parts_equals_that_of_the_whole():
    assert digest(b"ab", b"c") == digest(b"abc") != digest(b"abd")
    assert 0 < digest() < 2**64
