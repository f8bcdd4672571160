"""Depthwise convolution and its hand-written derivative against the grouped convolution of XLA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.classifiers._depthwise import depthwise_conv

CHANNELS = 5


def grouped(images, kernel, stride):
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[-1],
        precision=jax.lax.Precision.HIGHEST,
    )


def make_case(size, k, batch=(2,)):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(*batch, *size, CHANNELS)), jnp.float32)
    return images, jnp.asarray(rng.normal(size=(k, k, 1, CHANNELS)), jnp.float32)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 6), (1, 1), (1, 4)])
def test_depthwise_conv_equals_the_grouped_convolution(size, stride, k):
    images, kernel = make_case(size, k)
    out = (2, -(-size[0] // stride), -(-size[1] // stride), CHANNELS)
    cotangent = np.random.default_rng(1).normal(size=out).astype(np.float32)

    @jax.jit
    def evaluate(images, kernel, cotangent):
        results = []
        for function in (depthwise_conv, grouped):
            value, vjp = jax.vjp(lambda x, w, f=function: f(x, w, stride), images, kernel)
            results.append((value, *vjp(cotangent)))
        return results

    for result, expected in zip(*evaluate(images, kernel, cotangent), strict=True):
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, atol=3e-5)


def test_depthwise_conv_is_the_same_under_jit_and_vmap():
    images, kernel = make_case((6, 7), 3, batch=(3, 2))

    def total(images, kernel):
        return jnp.sum(jnp.sin(depthwise_conv(images, kernel, 2)))

    function = jax.value_and_grad(total, argnums=(0, 1))
    eager = [function(rows, kernel) for rows in images]
    expected = jax.tree.map(lambda *rows: jnp.stack(rows), *eager)
    for transformed in (jax.vmap(function, (0, None)), jax.jit(jax.vmap(function, (0, None)))):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-5),
            transformed(images, kernel),
            expected,
        )


def test_depthwise_conv_maps_over_kernels():
    images, kernel = make_case((6, 7), 3, batch=(3, 2))
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])
    result = jax.vmap(lambda x, w: depthwise_conv(x, w, 2))(images, kernels)
    for i in range(3):
        np.testing.assert_allclose(result[i], grouped(images[i], kernels[i], 2), atol=1e-5)


def test_depthwise_conv_known_answer():
    """Stride 2 on an even size pads at the bottom right only, as TensorFlow does."""
    images = jnp.arange(16.0).reshape(1, 4, 4, 1)
    result = depthwise_conv(images, jnp.ones((3, 3, 1, 1)), 2)
    np.testing.assert_array_equal(result[0, ..., 0], [[45, 39], [66, 50]])
