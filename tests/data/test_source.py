"""The content digest of an example changes with its label, boxes and bytes."""

import numpy as np
import pytest
from PIL import Image

from cfx_jax.config import DataConfig
from cfx_jax.data import open_source
from cfx_jax.data.digests import UNREADABLE

TABLE = "file,label,boxes\na.png,3,1 1 5 6\nb.png,0,\nc.png,,\nbroken.png,2,\n"


def save(path, value):
    Image.fromarray(np.full((8, 9, 3), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for value, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", value)
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "manifest.csv").write_text(TABLE)
    return tmp_path


def contents(folder):
    source = open_source(DataConfig("folder", str(folder)))
    return [source.content(index) for index in range(len(source))]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("label", ("a.png,3", "a.png,7")),
        ("label taken away", ("a.png,3", "a.png,")),
        ("box", ("1 1 5 6", "1 1 5 7")),
        ("second box", ("1 1 5 6", "1 1 5 6; 2 2 3 3")),
        ("box taken away", ("1 1 5 6", "")),
        ("pixels", 200),
        ("bytes of an image that is none", b"none"),
    ],
)
def test_content_changes_with_the_example(name, change, folder):
    before = contents(folder)
    changed = 0
    if isinstance(change, tuple):
        (folder / "manifest.csv").write_text(TABLE.replace(*change))
    elif isinstance(change, int):
        save(folder / "a.png", change)
    else:
        (folder / "broken.png").write_bytes(change)
        changed = 3
    after = contents(folder)
    assert [index for index in range(4) if before[index] != after[index]] == [changed]
    assert contents(folder) == after
    assert len({*before, *after}) == 5


def test_content_of_a_missing_file_is_unreadable(folder):
    (folder / "b.png").unlink()
    assert [content == UNREADABLE for content in contents(folder)] == [False, True, False, False]


@pytest.mark.parametrize("name", ["images", "labels"])
def test_content_changes_with_the_array(name, tmp_path):
    arrays = {"images": np.full((3, 8, 8), 9, np.uint8), "labels": np.arange(3)}

    def read():
        np.savez(tmp_path / "a.npz", **arrays)
        source = open_source(DataConfig("npz", str(tmp_path / "a.npz")))
        return [(source.content(index), source.digest(index)) for index in range(3)]

    before = read()
    arrays[name][1] += 1
    after = read()
    assert [b[0] == a[0] for b, a in zip(before, after, strict=True)] == [True, False, True]
    assert (before[1][1] == after[1][1]) == (name == "labels")


def test_digest_of_bundled_photographs_exists():
    source = open_source(DataConfig())
    digests = {source.digest(index) for index in range(3)}
    assert len(digests) == 3
    assert UNREADABLE not in digests
