"""Generators are loaded by name, with their weights."""

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

import cfx_jax
from cfx_jax import registry
from cfx_jax.generators import contextual_attention, gated_unet
from cfx_jax.registry import generators, weights_digest
from cfx_jax.weights.params_file import encode_params


def test_load_generator_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown classifier 'vgg'; known are .*efficientnet_lite0"
    ):
        cfx_jax.load_classifier("vgg")
    known = "blur, contextual_attention, contextual_attention_pytorch, gated_unet, gated_"
    with pytest.raises(ValueError, match=f"unknown generator 'gan'; known are {known}"):
        cfx_jax.load_generator("gan")


@pytest.mark.parametrize("name", ["grey", "local_mean", "blur", "random_color"])
def test_load_generator_gives_the_name_and_fills(name):
    generator = cfx_jax.load_generator(name)
    assert generator.name == name
    images = jax.random.uniform(jax.random.key(0), (2, 32, 24, 3))
    infill = generator.apply(generator.params, images, jnp.zeros((2, 32, 24, 1)), jax.random.key(1))
    assert infill.shape == images.shape
    assert bool(jnp.all((infill >= 0) & (infill <= 1)))


def test_load_generator_accepts_the_hub_but_not_a_folder(gated_unet_file, tmp_path, monkeypatch):
    path, params = gated_unet_file
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo_id, filename: str(path))
    generator = cfx_jax.load_generator("gated_unet", "hf://owner/name/weights.safetensors")
    assert jax.tree.structure(generator.params) == jax.tree.structure(params)
    with pytest.raises(IsADirectoryError, match="is a folder; expected a safetensors file"):
        cfx_jax.load_generator("gated_unet", tmp_path)


@pytest.fixture
def gated_unet_file(tmp_path):
    params = gated_unet.init(jax.random.key(5))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(encode_params(params, {"steps": 7}))
    return path, params


def test_load_generator_reads_weights(gated_unet_file):
    path, params = gated_unet_file
    generator = cfx_jax.load_generator("gated_unet", path)
    assert generator.name == "gated_unet"
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6),
        generator.params,
        params,
    )


def test_load_generator_distinguishes_a_stochastic_network(gated_unet_file, tmp_path):
    params = gated_unet.init(jax.random.key(5), stochastic=True)
    (tmp_path / "noisy.safetensors").write_bytes(encode_params(params, {}))
    noisy = cfx_jax.load_generator("gated_unet_stochastic", tmp_path / "noisy.safetensors")
    assert noisy.name == "gated_unet_stochastic"
    for name, path in (
        ("gated_unet", tmp_path / "noisy.safetensors"),
        ("gated_unet_stochastic", gated_unet_file[0]),
    ):
        with pytest.raises(ValueError, match=r"stem/conv/kernel \(.*\) instead of"):
            cfx_jax.load_generator(name, path)


def test_load_generator_refuses_weights_of_another_network(gated_unet_file):
    path, _ = gated_unet_file
    with pytest.raises(
        ValueError, match=r"network: missing arrays \['coarse.*, unexpected arrays \['filter_0"
    ):
        cfx_jax.load_generator("contextual_attention", path)


def published_arrays():
    """Random parameters under the names and in the layout of the published network."""
    params = jax.eval_shape(contextual_attention.init, jax.random.key(0))
    arrays = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        suffix = {"kernel": "weight", "bias": "bias"}[path[-1]]
        shape = [leaf.shape[axis] for axis in (3, 2, 0, 1)] if leaf.ndim == 4 else leaf.shape
        arrays[".".join([*path[:-1], suffix])] = np.full(shape, 0.1, np.float32)
    return arrays


def test_load_generator_contextual_attention_reads_the_published_layout(tmp_path):
    arrays = published_arrays()
    save_file(arrays, tmp_path / "published.safetensors")
    original, port = (
        cfx_jax.load_generator(name, tmp_path / "published.safetensors")
        for name in ("contextual_attention", "contextual_attention_pytorch")
    )
    assert weights_digest(original.params) == weights_digest(port.params)
    assert original.apply is not port.apply


@pytest.mark.parametrize("name", list(generators._PACKAGED))
def test_load_generator_packaged_weights_match_their_digest(name, tmp_path, monkeypatch):
    generator = cfx_jax.load_generator(name)
    network = registry.NETWORKS[name]
    images = jnp.full((1, 32, 32, network.channels), 0.7)
    mask = jnp.ones((1, 32, 32, 1)).at[:, 8:24, 8:24].set(0.0)
    infilled = cfx_jax.infill(jax.random.key(0), generator, images, mask)
    assert np.isfinite(infilled).all()
    monkeypatch.setitem(generators._PACKAGED, name, "0" * 64)
    with pytest.raises(ValueError, match=rf"{name}.safetensors is truncated or was altered"):
        cfx_jax.load_generator(name)


def test_load_generator_explains_how_to_get_weights():
    with pytest.raises(ValueError, match=r"no packaged weights: train it with python -m cfx_jax"):
        cfx_jax.load_generator("contextual_attention")


def test_load_generator_heuristic_takes_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"'grey' has no weights, but .* is given"):
        cfx_jax.load_generator("grey", tmp_path / "weights.safetensors")
