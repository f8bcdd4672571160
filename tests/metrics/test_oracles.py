"""Gradient methods and deletion against public implementations, on the same network.

The golden file was made by `make_oracle_golden.py`, which lists the versions.
"""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.baselines import attribute
from cfx_jax.classifiers import NORMALIZATIONS, NormalizedModule
from cfx_jax.classifiers.layers import Conv
from cfx_jax.fido.question import Question
from cfx_jax.metrics.curves import deletion_curve

GOLDEN = pathlib.Path(__file__).with_name("oracle_golden.npz")
SIZE, CHANNELS, CLASSES = 12, 3, 5
TARGETS = (1, 3)
FLIPPED = (4, 4)
IG_STEPS = 32
KEY = jax.random.key(0)


class SmallNetwork(nn.Module):
    """Two convolutions, the second of which halves the sides, their mean, and a dense layer."""

    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(Conv(6, 3, padding=1, name="first")(images))
        hidden = Maps(name="second")(hidden)
        return nn.Dense(CLASSES, name="head")(hidden.mean((1, 2)))


class Maps(nn.Module):
    """The last feature maps, after their ReLU."""

    @nn.compact
    def __call__(self, hidden):
        return nn.relu(Conv(8, 3, stride=2, padding=1, name="conv")(hidden))


def draw(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw_params(channels):
    """Kernels `[k, k, in, out]`, as ours are."""
    return {
        "first": {"kernel": draw(3, 3, channels, 6, seed=1), "bias": draw(6, seed=2)},
        "second": {"conv": {"kernel": draw(3, 3, 6, 8, seed=3) / 3, "bias": draw(8, seed=4)}},
        "head": {"kernel": draw(8, CLASSES, seed=5) / 3, "bias": draw(CLASSES, seed=6)},
    }


def draw_images(channels):
    return np.random.default_rng(7).uniform(size=(2, SIZE, SIZE, channels)).astype(np.float32)


def draw_maps():
    """No two pixels of these are equally important."""
    return draw(2, SIZE, SIZE, seed=8)


def classifier(channels):
    apply = NormalizedModule(SmallNetwork(), NORMALIZATIONS["none"])
    return cfx_jax.Classifier(draw_params(channels), apply, channels=channels)


def black(params, images, mask, key):
    return jnp.zeros_like(images)


BLACK = cfx_jax.Generator(params=(), apply=black, name="black")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def test_oracle_networks_are_the_same(golden):
    model = classifier(CHANNELS)
    logits = model.apply(model.params, jnp.asarray(draw_images(CHANNELS)))
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "method", ["gradient", "gradient_x_input", "integrated_gradients", "grad_cam"]
)
def test_attribute_equals_captum(method, golden):
    images = jnp.asarray(draw_images(CHANNELS))
    found = attribute(method, KEY, classifier(CHANNELS), BLACK, images, np.asarray(TARGETS))
    expected = golden[method]
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_deletion_curve_equals_quantus_pixel_flipping(golden):
    """Pixels turn black one by one; the curve of Quantus lacks the point of the whole image."""
    model, maps = classifier(1), draw_maps()
    for row, (image, target) in enumerate(zip(draw_images(1), FLIPPED, strict=True)):
        curve = deletion_curve(
            KEY, model, BLACK, jnp.asarray(image), Question(target), jnp.asarray(maps[row]), SIZE**2
        )
        expected = golden["pixel_flipping"][row]
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(curve.probability[1:], expected, atol=1e-5)
