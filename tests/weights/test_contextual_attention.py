"""The published names and shapes, written out again, against those the converter accepts."""

import re

import jax
import numpy as np
import pytest

from cfx_jax.generators import contextual_attention
from cfx_jax.weights.contextual_attention import params_from_arrays

# (out, in, kernel size) of every layer.
SHARED = {
    **{f"conv{layer}_atrous": (128, 128, 3) for layer in (7, 8, 9, 10)},
    "conv6": (128, 128, 3),
}
COARSE = SHARED | {
    "conv1": (32, 5, 5),
    "conv2_downsample": (64, 32, 3),
    "conv3": (64, 64, 3),
    "conv4_downsample": (128, 64, 3),
    "conv5": (128, 128, 3),
    "conv11": (128, 128, 3),
    "conv12": (128, 128, 3),
    "conv13": (64, 128, 3),
    "conv14": (64, 64, 3),
    "conv15": (32, 64, 3),
    "conv16": (16, 32, 3),
    "conv17": (3, 16, 3),
}
FINE = SHARED | {
    "conv1": (32, 5, 5),
    "conv2_downsample": (32, 32, 3),
    "conv3": (64, 32, 3),
    "conv4_downsample": (64, 64, 3),
    "conv5": (128, 64, 3),
    "pmconv1": (32, 5, 5),
    "pmconv2_downsample": (32, 32, 3),
    "pmconv3": (64, 32, 3),
    "pmconv4_downsample": (128, 64, 3),
    "pmconv5": (128, 128, 3),
    "pmconv6": (128, 128, 3),
    "pmconv9": (128, 128, 3),
    "pmconv10": (128, 128, 3),
    "allconv11": (128, 256, 3),
    "allconv12": (128, 128, 3),
    "allconv13": (64, 128, 3),
    "allconv14": (64, 64, 3),
    "allconv15": (32, 64, 3),
    "allconv16": (16, 32, 3),
    "allconv17": (3, 16, 3),
}


@pytest.fixture
def published():
    """A full set of arrays, every number of which is another one."""
    arrays, start = {}, 0
    for stage, layers in (("coarse_generator", COARSE), ("fine_generator", FINE)):
        for layer, (out, inputs, size) in layers.items():
            for kind, shape in (("weight", (out, inputs, size, size)), ("bias", (out,))):
                count = np.prod(shape)
                values = np.arange(start, start + count, dtype=np.float32)
                arrays[f"{stage}.{layer}.conv.{kind}"] = values.reshape(shape)
                start += count
    return arrays


def test_published_layout_number_of_arrays_and_parameters(published):
    assert len(published) == 84
    assert sum(array.size for array in published.values()) == 3_601_542


def test_params_from_arrays_places_every_array(published):
    params = params_from_arrays(published)
    for name, array in published.items():
        stage, layer, _, kind = name.split(".")
        ours = params[stage][layer]["conv"]["kernel" if kind == "weight" else "bias"]
        assert ours.dtype == np.float32
        assert ours.flags.c_contiguous
        if kind == "bias":
            np.testing.assert_array_equal(ours, array)
        else:
            assert ours[0, 2, 1, 3 % len(array)] == array[3 % len(array), 1, 0, 2]
            np.testing.assert_array_equal(np.einsum("yxio->oiyx", ours), array)


def test_params_from_arrays_match_the_network(published):
    expected = jax.eval_shape(contextual_attention.init, jax.random.key(0))
    params = params_from_arrays(published)
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)


def test_params_from_arrays_accepts_a_module_prefix(published):
    prefixed = {f"netG.{name}": array for name, array in published.items()}
    expected = params_from_arrays(published)
    jax.tree.map(np.testing.assert_array_equal, params_from_arrays(prefixed), expected)


def test_params_from_arrays_converts_half_precision_to_float32(published):
    name = "coarse_generator.conv1.conv.bias"
    half = published | {name: np.linspace(-1.0, 1.0, 32, dtype=np.float16)}
    ours = params_from_arrays(half)["coarse_generator"]["conv1"]["conv"]["bias"]
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, half[name])


def test_params_from_arrays_names_missing_and_unexpected_arrays(published):
    published["fine_generator.pmconv7.conv.weight"] = published.pop(
        "fine_generator.pmconv9.conv.weight"
    )
    with pytest.raises(
        ValueError,
        match=r"layout of generative-inpainting-pytorch: missing arrays "
        r"\['fine_generator.pmconv9.conv.weight'\], unexpected arrays "
        r"\['fine_generator.pmconv7.conv.weight'\], wrong shapes or types \[\]",
    ):
        params_from_arrays(published)


def test_params_from_arrays_refuses_no_arrays():
    with pytest.raises(ValueError, match=r"missing arrays \['coarse_generator\.conv1\.conv\.bias'"):
        params_from_arrays({})


def test_params_from_arrays_drops_only_a_prefix_of_all_names(published):
    name = "fine_generator.conv6.conv.bias"
    published[f"netG.{name}"] = published.pop(name)
    with pytest.raises(
        ValueError,
        match=rf"missing arrays \['{name}'\], unexpected arrays \['netG\.{name}'\]",
    ):
        params_from_arrays(published)


def test_params_from_arrays_names_wrong_shapes(published):
    published["fine_generator.conv2_downsample.conv.weight"] = np.zeros((64, 32, 3, 3), np.float32)
    published["fine_generator.conv2_downsample.conv.bias"] = np.zeros((), np.float32)
    message = (
        "wrong shapes or types ['fine_generator.conv2_downsample.conv.bias () instead of (32,)', "
        "'fine_generator.conv2_downsample.conv.weight (64, 32, 3, 3) instead of (32, 32, 3, 3)']"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        params_from_arrays(published)
