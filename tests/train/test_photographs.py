"""Photographs in the memory of devices: crops equal those of the host, byte for byte."""

import functools
import logging

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import open_source
from cfx_jax.runs import parallel
from cfx_jax.train import photographs
from cfx_jax.train.crops import Crops
from cfx_jax.train.photographs import MemoryCrops, cut, load_crops

# One is smaller than a crop, and the first and the last cannot be read.
SIZES = [(50, 50), (40, 60), (20, 24), (64, 50), (90, 41), (32, 32)]
UNREADABLE = {"0.png", "5.png"}


@pytest.fixture
def folder(write_photographs):
    root = write_photographs(SIZES)
    for name in UNREADABLE:
        (root / name).write_bytes(b"no image")
    return root


def make_crops(folder, channels=3):
    return Crops(open_source(DataConfig(source="folder", path=str(folder))), 32, channels, seed=0)


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_load_crops_on_devices_equal_those_of_the_host(folder, channels, num_devices):
    crops, devices = make_crops(folder, channels), jax.local_devices()[:num_devices]
    in_memory = load_crops(crops, len(SIZES), devices)
    assert isinstance(in_memory, MemoryCrops)
    assert set(crops.unreadable) == UNREADABLE
    decoded = list(make_crops(folder, channels).batches(2, 8, 8))
    for batch, expected in zip(in_memory.batches(2, 8, 8), decoded, strict=True):
        ours = in_memory.on_devices(parallel.shard(batch, num_devices, 8 // num_devices))
        assert ours.shape == (num_devices, 8 // num_devices, 32, 32, channels)
        assert ours.dtype == jnp.uint8
        np.testing.assert_array_equal(np.asarray(ours).reshape(expected.shape), expected)


def test_load_crops_decodes_on_demand_without_enough_memory(folder, monkeypatch, caplog):
    crops, devices = make_crops(folder), jax.local_devices()[:1]
    pixels = 40 * 60 + 32 * 38 + 64 * 50 + 90 * 41  # The small one is enlarged.
    for memory, fits in ((12 * pixels, True), (12 * pixels - 12, False)):
        monkeypatch.setattr(photographs, "device_memory", lambda _, memory=memory: memory)
        with caplog.at_level(logging.INFO):
            assert (load_crops(crops, 100, devices) is crops) != fits
        assert ("do not fit on a device" in caplog.text) != fits


def test_load_crops_decodes_on_demand_for_few_draws(folder):
    crops = make_crops(folder)
    assert load_crops(crops, len(SIZES) - 1, jax.local_devices()[:1]) is crops
    assert not crops.unreadable


def test_load_crops_refuses_a_source_without_readable_images(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"none of the 1 images .* can be decoded; .*identify"):
        load_crops(make_crops(tmp_path), 10, jax.local_devices()[:1])


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_cut_slices_whole_lines_on_every_platform(platform):
    planes = [jax.ShapeDtypeStruct((5000,), jnp.uint8)] * 3
    windows = jax.ShapeDtypeStruct((4, 3), jnp.int32)
    function = jax.jit(jax.vmap(functools.partial(cut, size=32), in_axes=(0, None)))
    program = jax.export.export(function, platforms=[platform])(windows, planes).mlir_module()
    assert "slice_sizes = array<i64: 32>" in program
