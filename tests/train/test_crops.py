"""Crops are pure functions of (seed, step, row), and broken files are not fatal."""

import numpy as np
import pytest
from PIL import Image

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import open_source
from cfx_jax.train.crops import Crops

SIZES = [(40, 60), (33, 32), (64, 50), (90, 41)]


@pytest.fixture
def folder(write_photographs):
    return write_photographs(SIZES)


def make_crops(folder, size=32, channels=3, seed=0):
    return Crops(open_source(DataConfig(source="folder", path=str(folder))), size, channels, seed)


def test_crop_is_cut_from_an_image_or_its_mirror_image(folder):
    images = [np.asarray(Image.open(folder / f"{i}.png")) for i in range(len(SIZES))]
    windows = set()
    for image in images:
        for mirrored in (False, True):
            pixels = image[:, ::-1] if mirrored else image
            for y in range(pixels.shape[0] - 31):
                for x in range(pixels.shape[1] - 31):
                    windows.add(pixels[y : y + 32, x : x + 32].tobytes())
    crops = make_crops(folder)
    drawn = [crops.crop(step, 0).tobytes() for step in range(20)]
    assert set(drawn) <= windows
    assert len(set(drawn)) > 10


def test_crops_depend_only_on_seed_step_and_row(folder):
    crops = make_crops(folder)
    whole = list(crops.batches(0, 9, 3))
    assert len(whole) == 9
    assert whole[0].shape == (3, 32, 32, 3)
    assert whole[0].dtype == np.uint8
    resumed = list(make_crops(folder).batches(6, 9, 3))
    np.testing.assert_array_equal(whole[6:], resumed)
    np.testing.assert_array_equal(whole[4][2], crops.crop(4, 2))
    assert not np.array_equal(whole[4][2], make_crops(folder, seed=1).crop(4, 2))


def test_batches_closed_early_leave_no_thread(folder):
    batches = make_crops(folder).batches(0, 1000, 3)
    next(batches)
    batches.close()


def test_crop_enlarges_small_images(folder):
    assert make_crops(folder, size=70).crop(0, 0).shape == (70, 70, 3)


def test_crop_does_not_mirror_grey_images(tmp_path):
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8), (32, 32))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    crops = make_crops(tmp_path, channels=1)
    for step in range(10):
        np.testing.assert_array_equal(crops.crop(step, 0)[..., 0], ramp)


def test_batches_list_and_replace_unreadable_images(folder):
    (folder / "1.png").write_bytes(b"no image")
    truncated = (folder / "2.png").read_bytes()[:200]
    (folder / "2.png").write_bytes(truncated)
    crops = make_crops(folder)
    drawn = np.concatenate(list(crops.batches(0, 10, 2)))
    assert set(crops.unreadable) == {"1.png", "2.png"}
    assert "cannot identify image file" in crops.unreadable["1.png"]
    np.testing.assert_array_equal(drawn, np.concatenate(list(crops.batches(0, 10, 2))))


def test_batches_refuse_a_source_without_readable_images(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"none of the 3 images .* can be decoded; .*identify"):
        next(make_crops(tmp_path).batches(0, 1, 1))
