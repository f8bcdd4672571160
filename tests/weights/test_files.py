"""One function reads every format, and hub addresses too."""

import json

import huggingface_hub
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save

from cfx_jax.weights.files import read_weights

ARRAYS = {"conv.kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "conv.bias": np.ones(3)}


def write_orbax(path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, {"conv": {n.removeprefix("conv."): a for n, a in ARRAYS.items()}})


def write_index(path):
    (path.parent / "one.safetensors").write_bytes(save(ARRAYS))
    path.write_text(json.dumps({"weight_map": dict.fromkeys(ARRAYS, "one.safetensors")}))


WRITERS = {
    "net.npz": lambda path: np.savez(path, **ARRAYS),
    "net.safetensors": lambda path: path.write_bytes(save(ARRAYS)),
    "model.safetensors.index.json": write_index,
    "folder": write_orbax,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_known_by_its_name(tmp_path, name):
    WRITERS[name](tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        arrays = read_weights(path)
        assert arrays.keys() == ARRAYS.keys()
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[key], array)


def test_an_address_on_the_hub_is_fetched_and_read(tmp_path, monkeypatch):
    WRITERS["net.npz"](tmp_path / "net.npz")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo_id, filename: str(tmp_path / filename)
    )
    assert read_weights("hf://owner/name/net.npz").keys() == ARRAYS.keys()
    with pytest.raises(FileNotFoundError, match=r"other\.npz"):
        read_weights("hf://owner/name/other.npz")


@pytest.mark.parametrize("name", ["net.h5", "net", "index.json"])
def test_an_unknown_format_lists_the_known_ones(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}: unknown format .* \.safetensors, .*\.npz"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["net.npz", "net.pth", "net.safetensors", "a.safetensors.index.json"]
)
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        read_weights(tmp_path / name)
