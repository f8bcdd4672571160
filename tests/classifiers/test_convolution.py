"""Convolutions equal those of XLA on any backend, whichever implementation is chosen."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.classifiers._convolution import conv

# Of ResNet, of AlexNet, of EfficientNet, of a deep ResNet, and others: side of the kernel, stride,
# padding.
STEMS = [(7, 2, 3), (11, 4, 2), (3, 2, None), (3, 2, 1)]
STEMS += [(7, 3, 0), (8, 2, 2), (9, 4, 4), (7, 2, None), (3, 3, 0), (2, 2, None), (3, 4, 1)]
STEMS += [(3, 1, 1), (5, 2, 1), (5, 1, None), (1, 2, 1)]


def published(images, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        "SAME" if padding is None else [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


def make_case(size, side, channels):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, *size, channels)), jnp.float32)
    kernel = rng.normal(size=(side, side, channels, 5)) / side
    return images, jnp.asarray(kernel, jnp.float32)


@pytest.mark.parametrize(("side", "stride", "padding"), STEMS)
@pytest.mark.parametrize("size", [(33, 30), (12, 35)])
@pytest.mark.parametrize("channels", [3, 6])
def test_conv_value_and_gradients_equal_the_published_layer(size, side, stride, padding, channels):
    images, kernel = make_case(size, side, channels)
    check_equal(functools.partial(conv, stride=stride, padding=padding), images, kernel)


def check_equal(layer, images, kernel):
    @functools.partial(jax.jit, static_argnames="function")
    def evaluate(images, kernel, function):
        value, vjp = jax.vjp(function, images, kernel)
        return value, *vjp(jnp.sin(value))

    same = functools.partial(published, **layer.keywords)
    ours, theirs = (evaluate(images, kernel, function=f) for f in (layer, same))
    for result, expected in zip(ours, theirs, strict=True):
        assert result.shape == expected.shape
        error = jnp.linalg.norm(result - expected) / jnp.linalg.norm(expected)
        assert error < 1e-5


def test_conv_known_answer():
    """Each window of ones counts the pixels inside of the image."""
    result = conv(jnp.ones((1, 9, 9, 3)), jnp.ones((7, 7, 3, 1)), 2, 3)
    inside = np.asarray([4, 6, 7, 6, 4])
    np.testing.assert_array_equal(result[0, ..., 0], 3 * np.outer(inside, inside))


@pytest.mark.parametrize(("side", "stride", "padding"), STEMS)
def test_conv_on_accelerators_equals_the_published_layer(side, stride, padding, monkeypatch):
    def on_accelerator(*arguments, cpu, default):
        del cpu
        return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", on_accelerator)
    images, kernel = make_case((33, 30), side, 3)
    check_equal(functools.partial(conv, stride=stride, padding=padding), images, kernel)


@pytest.mark.parametrize(("side", "stride", "padding", "channels"), [(3, 2, 1, 6), (7, 2, 3, 3)])
def test_conv_higher_derivatives_equal_the_published_layer(side, stride, padding, channels):
    images, kernel = make_case((17, 18), side, channels)
    directions = jnp.cos(images), jnp.sin(kernel)

    def derivatives(layer):
        def total(images, kernel):
            return jnp.sin(layer(images, kernel, stride, padding)).sum()

        primals = images, kernel
        second = jax.jvp(jax.grad(total, argnums=(0, 1)), primals, directions)
        return jax.tree.leaves((jax.jvp(total, primals, directions), second))

    for result, expected in zip(derivatives(conv), derivatives(published), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_conv_skips_the_kernel_gradient_when_unused():
    images, kernel = make_case((9, 9), 3, 6)

    def total(images, kernel):
        return jnp.sin(conv(images, kernel, 2, 1)).sum()

    def count(argnums):
        program = str(jax.make_jaxpr(jax.grad(total, argnums))(images, kernel))
        return program.count("conv_general_dilated[")

    # A branch each of CPU and others, of the layer and of its gradients.
    assert (count(0), count(1), count((0, 1))) == (4, 4, 6)


@pytest.mark.parametrize("shape", [(0, 9, 9), (2, 2, 2), (2, 5, 1)])
@pytest.mark.parametrize(("side", "stride"), [(3, 2), (3, 1), (5, 2), (7, 2)])
@pytest.mark.parametrize("channels", [3, 6])
def test_conv_of_no_or_too_small_images_is_empty(shape, side, stride, channels):
    images, kernel = jnp.ones((*shape, channels)), jnp.ones((side, side, channels, 4))
    layer = functools.partial(conv, stride=stride)
    expected = jax.eval_shape(
        functools.partial(published, stride=stride, padding=0), images, kernel
    )
    value, pull_back = jax.vjp(layer, images, kernel)
    assert value.shape == expected.shape
    for result, like in zip(pull_back(value), (images, kernel), strict=True):
        assert result.shape == like.shape
        assert not result.any()


def test_conv_refuses_a_single_image():
    with pytest.raises(ValueError, match=r"images are \(8, 8, 3\); expected a batch"):
        conv(jnp.ones((8, 8, 3)), jnp.ones((3, 3, 3, 4)), 2, 1)


def test_conv_maps_over_images_and_kernels():
    images, kernel = make_case((12, 11), 3, 6)
    pairs = images[:, None], jnp.stack([kernel, -kernel])
    result = jax.vmap(functools.partial(conv, stride=2, padding=1))(*pairs)
    expected = [conv(*pair, 2, 1) for pair in zip(*pairs, strict=True)]
    np.testing.assert_allclose(result, jnp.stack(expected), atol=1e-5)


def lower(platform, side, stride, padding, channels=3, dtype=jnp.float32):
    """The program of a gradient with respect to images."""
    images, kernel = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape in ((2, 32, 32, channels), (side, side, channels, 64))
    )

    def total(images, kernel):
        return jnp.sin(conv(images, kernel, stride, padding)).sum()

    exported = jax.export.export(jax.jit(jax.grad(total)), platforms=[platform])(images, kernel)
    return exported.mlir_module()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_conv_on_accelerators_uses_twelve_channels_without_stride(platform, dtype):
    program = lower(platform, 7, 2, 3, dtype=dtype)
    name = "f32" if dtype == jnp.float32 else "bf16"
    assert f"tensor<4x4x64x12x{name}>" in program or f"tensor<4x4x12x64x{name}>" in program
    assert "stride = [2, 2]" not in program
    assert "lhs_dilate = [2, 2]" not in program


@pytest.mark.parametrize("padding", [None, 1])
def test_conv_narrow_on_cpu_is_a_matmul(padding):
    programs = {name: lower(name, 3, 2, padding) for name in ("cpu", "cuda", "tpu")}
    assert "stablehlo.convolution" not in programs.pop("cpu")
    for program in programs.values():
        assert "stablehlo.convolution" in program
        assert "stablehlo.dot_general" not in program


@pytest.mark.parametrize(("side", "stride", "channels"), [(3, 1, 8), (3, 2, 8), (7, 2, 3)])
def test_conv_on_cpu_keeps_kernel_axes_in_the_gradient(side, stride, channels):
    def kernels(program):
        return set(re.findall(r"x\[(.*?)\]->", program))

    assert kernels(lower("cpu", side, stride, side // 2, channels)) == {"0, 1, i, o"}
    if side == 3:  # Without a hand on it, as autodiff has it.
        assert "0, 1, o, i" in kernels(lower("tpu", side, stride, side // 2, channels))
