"""Parameter files: what is written is read back, and nothing else passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.weights.params_file import (
    encode_params,
    file_digest,
    read_arrays,
    read_card,
    read_params,
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


def test_what_is_written_is_read_back_to_half_precision(path):
    params = read_params(path, PARAMS)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(PARAMS), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, np.asarray(theirs, np.float16))
    assert read_card(path) == CARD
    assert read_arrays(path)["conv/kernel"].dtype == np.float16


def test_columns_first_arrays_are_read_back_too(tmp_path):
    kernel = np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3))
    (tmp_path / "file").write_bytes(encode_params({"kernel": kernel}, {}))
    np.testing.assert_array_equal(read_arrays(tmp_path / "file")["kernel"], kernel)


def test_equal_parameters_make_equal_files():
    backwards = dict(reversed(PARAMS.items()))
    assert encode_params(backwards, dict(reversed(CARD.items()))) == encode_params(PARAMS, CARD)


@pytest.mark.parametrize("value", [1e6, np.nan, np.inf])
def test_what_half_precision_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match=r"conv/bias holds values that are not finite in float16"):
        encode_params({"conv": {"bias": jnp.asarray([0.0, value])}}, {})


def test_another_network_is_refused_with_all_names(path):
    template = {
        "conv": {"kernel": jnp.zeros((2, 3, 5))},
        "scale": jnp.zeros(()),
        "dense": {"bias": jnp.zeros(3)},
    }
    with pytest.raises(ValueError, match="another network") as error:
        read_params(path, template)
    for text in (
        "missing dense/bias",
        "unknown conv/bias",
        "conv/kernel is (2, 3, 4), expected (2, 3, 5)",
    ):
        assert text in str(error.value)


@pytest.mark.parametrize("change", ["truncated", "altered"])
def test_a_file_that_changed_is_refused_by_its_digest(path, change):
    digest, content = file_digest(path), path.read_bytes()
    read_params(path, PARAMS, digest)
    broken = content[:-3] if change == "truncated" else content[:-1] + b"\x7f"
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=rf"truncated or was altered: .* expected {digest}"):
        read_params(path, PARAMS, digest)


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\xff" * 64])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        read_params(tmp_path / "file", PARAMS)


def test_a_truncated_file_is_refused_without_a_digest_too(path):
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        read_params(path, PARAMS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        read_params(tmp_path / "absent", PARAMS)
