"""Strict settings and small models with known answers, shared by all tests."""

import os

# Before JAX starts: several CPU devices on one machine, as a pod would have, and programs compiled
# for a short life, since nearly all of the time of the tests is compilation.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax

jax.config.update("jax_numpy_rank_promotion", "allow")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees the compiled programs of a module of tests.

    Each takes several memory maps, and a process that has more than 65,530 of them crashes.
    """
    yield
    jax.clear_caches()


def linear_apply(params, images):
    """Logits `[N, K]` of a linear classifier over all pixels and channels."""
    return images.reshape(len(images), -1) @ params


def constant_fill(params, images, mask, key):
    """Fills with one value, the generator's only parameter."""
    return jnp.full_like(images, params)


@pytest.fixture
def linear_classifier():
    """Makes the two-class classifier with logits `[0, sum(weights * images)]`."""

    def make(weights):
        flat = np.asarray(weights, np.float32).reshape(-1)
        return cfx_jax.Classifier(
            params=jnp.stack([jnp.zeros_like(flat), flat], axis=1), apply=linear_apply
        )

    return make


@pytest.fixture
def fill_half():
    """Fills every hole with 0.5."""
    return cfx_jax.Generator(params=jnp.asarray(0.5), apply=constant_fill, name="half")


@pytest.fixture(scope="session")
def random_classifier():
    """A smooth five-class network on 16 x 16 RGB images, fixed random weights."""
    keys = jax.random.split(jax.random.key(7), 2)
    params = {
        "filters": jax.random.normal(keys[0], (5, 5, 3, 12)),
        "readout": jax.random.normal(keys[1], (12, 5)),
    }
    return cfx_jax.Classifier(params=params, apply=convolutional_apply, name="random")


def convolutional_apply(params, images):
    """One strided convolution, tanh, mean, linear."""
    hidden = jax.lax.conv_general_dilated(
        images - 0.5, params["filters"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return 8.0 * jnp.tanh(hidden).mean((1, 2)) @ params["readout"]


@pytest.fixture
def images():
    """Five smooth random 16 x 16 RGB images in [0, 1]."""
    small = jax.random.uniform(jax.random.key(3), (5, 4, 4, 3))
    return jnp.clip(jax.image.resize(small, (5, 16, 16, 3), "linear"), 0.0, 1.0)
