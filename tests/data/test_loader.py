"""Units are decoded ahead: their order, unreadable images, and the number of units ahead."""

import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from cfx_jax.config import DataConfig
from cfx_jax.data import UNKNOWN_LABEL, open_source
from cfx_jax.data.loader import load_units

SHAPE = (8, 8, 3)
UNITS = [(0, range(3)), (2, range(6, 9)), (1, range(3, 6)), (3, range(9, 10))]


@pytest.fixture
def source(tmp_path):
    """Ten images of one colour each, their label in a manifest; the fifth is none."""
    rows = ["file,label"]
    for index in range(10):
        name = f"{index}.png"
        Image.new("RGB", (9, 7), (20 * index, 10, 0)).save(tmp_path / name)
        rows.append(f"{name},{index if index != 7 else ''}")
    (tmp_path / "4.png").write_bytes(b"no image")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    return open_source(DataConfig(source="folder", path=str(tmp_path)))


def test_load_units_keeps_the_order_of_units_and_examples(source):
    loaded = list(load_units(source, UNITS, SHAPE, "stretch"))
    assert [examples.unit for examples in loaded] == [0, 2, 1, 3]
    assert [examples.ids for examples in loaded[:2]] == [
        ["0.png", "1.png", "2.png"],
        ["6.png", "7.png", "8.png"],
    ]
    assert loaded[1].labels.tolist() == [6, UNKNOWN_LABEL, 8]
    assert loaded[1].digests.tolist() == [source.digest(index) for index in (6, 7, 8)]
    assert loaded[1].digests.dtype == np.uint64
    assert loaded[1].pixels.dtype == np.uint8
    np.testing.assert_array_equal(loaded[1].pixels[:, 3, 3, 0], [120, 140, 160])
    assert loaded[1].identities.tolist() == [zlib.crc32(name) for name in
                                             (b"6.png", b"7.png", b"8.png")]  # fmt: skip


def test_load_units_unreadable_example_has_a_row_but_no_image(source):
    [examples] = load_units(source, [(1, range(3, 6))], SHAPE, "crop")
    assert examples.ids == ["3.png", "4.png", "5.png"]
    assert examples.labels.tolist() == [3, 4, 5]
    assert examples.readable.tolist() == [0, 2]
    assert examples.pixels.shape == (2, *SHAPE)
    np.testing.assert_array_equal(examples.pixels[:, 0, 0, 0], [60, 100])
    assert len(examples.identities) == 2
    [problem] = examples.problems
    assert problem.startswith("4.png: ")


def test_load_units_accepts_a_unit_of_unreadable_examples(source):
    [examples] = load_units(source, [(0, range(4, 5))], SHAPE, "crop")
    assert examples.pixels.shape == (0, *SHAPE)
    assert examples.readable.size == examples.identities.size == 0
    assert examples.ids == ["4.png"]


class Counted:
    """A source of blank images that remembers which were loaded."""

    target = open_allowed = None

    def __init__(self, error_at=None):
        self.ids = [str(index) for index in range(100)]
        self.loaded = set()
        self.error_at = error_at
        self.lock = threading.Lock()

    def label(self, index):
        return index

    def digest(self, index):
        return index + 1

    def pixels(self, index, shape, resize):
        with self.lock:
            self.loaded.add(index)
        if index == self.error_at:
            raise MemoryError("in a thread")
        return np.zeros(shape, np.uint8)


def test_load_units_decodes_a_bounded_number_ahead():
    source = Counted()
    units = load_units(source, [(i, range(5 * i, 5 * i + 5)) for i in range(20)], SHAPE, "crop")
    for taken in range(1, 6):
        next(units)
        expected = 5 * (taken + 2)
        for _ in range(1000):  # Threads decode what may be decoded by now ...
            if len(source.loaded) == expected:
                break
            time.sleep(0.005)
        time.sleep(0.02)
        assert source.loaded == set(range(expected)), "... and no more"
    units.close()
    assert len(source.loaded) == 5 * 7


def test_load_units_raises_errors_unrelated_to_images():
    units = load_units(Counted(error_at=7), [(i, range(5 * i, 5 * i + 5)) for i in range(4)],
                       SHAPE, "crop")  # fmt: skip
    assert next(units).unit == 0
    with pytest.raises(MemoryError, match="in a thread"):
        next(units)
