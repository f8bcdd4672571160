"""Parameter files: written parameters are read back, and other files are refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from cfx_jax.weights.params_file import (
    encode_params,
    file_digest,
    read_arrays,
    read_params,
    read_shards,
)

PARAMS = {
    "conv": {"kernel": jnp.arange(24.0).reshape(2, 3, 4) / 7, "bias": jnp.asarray([1e-5, -3.0])},
    "scale": jnp.asarray(2.5),
}
CARD = {"steps": 7, "data": {"name": "photographs"}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(encode_params(PARAMS, CARD))
    return path


def test_read_params_round_trip_in_half_precision(path):
    params = read_params(path, PARAMS)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(PARAMS), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, np.asarray(theirs, np.float16))
    with safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["card"]) == CARD
    assert read_arrays(path)["conv/kernel"].dtype == np.float16


def test_encode_params_accepts_column_major_arrays(tmp_path):
    kernel = np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3))
    (tmp_path / "file").write_bytes(encode_params({"kernel": kernel}, {}))
    np.testing.assert_array_equal(read_arrays(tmp_path / "file")["kernel"], kernel)


def test_encode_params_of_equal_parameters_is_equal():
    backwards = dict(reversed(PARAMS.items()))
    assert encode_params(backwards, dict(reversed(CARD.items()))) == encode_params(PARAMS, CARD)


@pytest.mark.parametrize("value", [1e6, np.nan, np.inf])
def test_encode_params_refuses_values_beyond_half_precision(value):
    with pytest.raises(ValueError, match=r"conv/bias contains values that are not finite in"):
        encode_params({"conv": {"bias": jnp.asarray([0.0, value])}}, {})


def test_read_params_refuses_another_network_with_all_names(path):
    template = {
        "conv": {"kernel": jnp.zeros((2, 3, 5))},
        "scale": jnp.zeros(()),
        "dense": {"bias": jnp.zeros(3)},
    }
    with pytest.raises(ValueError, match="another network") as error:
        read_params(path, template)
    for text in (
        "missing arrays ['dense/bias']",
        "unexpected arrays ['conv/bias']",
        "conv/kernel (2, 3, 4) instead of (2, 3, 5)",
    ):
        assert text in str(error.value)


@pytest.mark.parametrize("change", ["truncated", "altered"])
def test_read_params_refuses_a_changed_file_by_its_digest(path, change):
    digest, content = file_digest(path), path.read_bytes()
    read_params(path, PARAMS, digest)
    broken = content[:-3] if change == "truncated" else content[:-1] + b"\x7f"
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=rf"truncated or was altered: .* expected {digest}"):
        read_params(path, PARAMS, digest)


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\xff" * 64])
def test_read_params_refuses_other_files(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        read_params(tmp_path / "file", PARAMS)


def test_read_params_refuses_a_truncated_file_without_a_digest(path):
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        read_params(path, PARAMS)


def test_read_params_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        read_params(tmp_path / "absent", PARAMS)


def test_read_arrays_names_8_bit_floats(tmp_path):
    header = b'{"x":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(
        ValueError, match="file has arrays of float8_e4m3fn, a type that is not rea"
    ):
        read_arrays(tmp_path / "file")


def test_read_arrays_refuses_shapes_beyond_numpy(tmp_path):
    data = save({"kernel": np.zeros((0, 2), np.float32)})
    data = data.replace(b"[0,2]", b"[0,%d]" % 2**62)
    stop = data.index(b"}}") + 2
    (tmp_path / "file").write_bytes((stop - 8).to_bytes(8, "little") + data[8:stop])
    with pytest.raises(ValueError, match="is not a complete safetensors file: array is too big"):
        read_arrays(tmp_path / "file")


def test_read_arrays_names_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; expected a safetensors file"):
        read_arrays(tmp_path)


SHARDS = {
    "net-1-of-2.safetensors": {"a": np.ones(2, np.float32), "b": np.zeros(3, np.float16)},
    "net-2-of-2.safetensors": {"c": np.arange(4)},
}


def write_index(folder, weight_map):
    (folder / "net.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder / "net.safetensors.index.json"


@pytest.fixture
def index(tmp_path):
    for shard, arrays in SHARDS.items():
        (tmp_path / shard).write_bytes(save(arrays))
    places = {name: shard for shard, arrays in SHARDS.items() for name in arrays}
    return write_index(tmp_path, places)


def test_read_shards_reads_the_files_of_an_index_as_one(index):
    arrays = read_shards(index)
    assert arrays.keys() == {"a", "b", "c"}
    for expected in SHARDS.values():
        for name, array in expected.items():
            np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("name", ["b", "d"])
def test_read_shards_refuses_an_index_that_differs_from_its_files(index, name):
    first, second = SHARDS
    write_index(index.parent, {"a": first, "c": second, "b": first, name: second})
    with pytest.raises(ValueError, match=f"index\\.json: net-.-of-2.safetensors .* in .*'{name}'"):
        read_shards(index)


def test_read_shards_names_a_missing_file_of_an_index(index):
    (index.parent / "net-2-of-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="net-2-of-2"):
        read_shards(index)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": [1]}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../net.safetensors"}}',
        '{"weight_map": {"a": "net.pth"}}',
        "[" * 100_000,
    ],
)
def test_read_shards_refuses_a_file_that_is_no_index(tmp_path, content):
    path = tmp_path / "net.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is not an index of safetensors files"):
        read_shards(path)
