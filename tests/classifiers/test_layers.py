"""The first convolution of a ResNet, folded, is the convolution that was published."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.classifiers.layers import conv

# Of ResNet, of AlexNet, and others: side of the kernel, stride, padding.
STEMS = [(7, 2, 3), (11, 4, 2), (7, 3, 0), (8, 2, 2), (9, 4, 4)]


def published(images, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


def make_case(size, side):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    kernel = rng.normal(size=(side, side, 3, 5)) / side
    return images, jnp.asarray(kernel, jnp.float32)


@pytest.mark.parametrize(("side", "stride", "padding"), STEMS)
@pytest.mark.parametrize("size", [(32, 32), (33, 30), (31, 29), (12, 35)])
def test_value_and_gradients_equal_those_of_the_published_layer(size, side, stride, padding):
    images, kernel = make_case(size, side)

    @functools.partial(jax.jit, static_argnames="function")
    def evaluate(images, kernel, function):
        value, vjp = jax.vjp(lambda x, w: function(x, w, stride, padding), images, kernel)
        return value, *vjp(jnp.sin(value))

    ours, theirs = (evaluate(images, kernel, function=f) for f in (conv, published))
    for result, expected in zip(ours, theirs, strict=True):
        assert result.shape == expected.shape
        error = jnp.linalg.norm(result - expected) / jnp.linalg.norm(expected)
        assert error < 1e-5


def test_a_known_answer():
    """Each window of ones counts the pixels inside of the image."""
    result = conv(jnp.ones((1, 9, 9, 3)), jnp.ones((7, 7, 3, 1)), 2, 3)
    inside = np.asarray([4, 6, 7, 6, 4])
    np.testing.assert_array_equal(result[0, ..., 0], 3 * np.outer(inside, inside))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_platform_convolves_twelve_channels_without_a_stride(platform, dtype):
    images, kernel = (
        jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 32, 32, 3), (7, 7, 3, 64))
    )
    gradient = jax.grad(lambda images, kernel: conv(images, kernel, 2, 3).sum())
    exported = jax.export.export(jax.jit(gradient), platforms=[platform])(images, kernel)
    program = exported.mlir_module()
    name = "f32" if dtype == jnp.float32 else "bf16"
    assert f"tensor<4x4x64x12x{name}>" in program or f"tensor<4x4x12x64x{name}>" in program
    assert "stride = [2, 2]" not in program
    assert "lhs_dilate = [2, 2]" not in program


@pytest.mark.parametrize(("side", "channels"), [(3, 3), (7, 8)])
def test_other_layers_stay_as_they_are(side, channels):
    images, kernel = jnp.ones((1, 8, 8, channels)), jnp.ones((side, side, channels, 2))
    layer = functools.partial(conv, stride=2, padding=side // 2)
    assert "window_strides=(2, 2)" in str(jax.make_jaxpr(layer)(images, kernel))
