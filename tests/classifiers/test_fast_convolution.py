"""Functions with replaced convolutions have the same values and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.classifiers import fast_convolution
from cfx_jax.classifiers.fast_convolution import with_fast_convolutions

RNG = np.random.default_rng(0)
SAME = (("NHWC", "HWIO", "NHWC"), "SAME")


@pytest.fixture
def replaced(monkeypatch):
    """The shapes of the images of all convolutions that are replaced."""
    shapes, convolve = [], fast_convolution.convolve

    def record(images, *arguments):
        shapes.append(images.shape)
        return convolve(images, *arguments)

    monkeypatch.setattr(fast_convolution, "convolve", record)
    return shapes


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def check_equal(function, *arguments):
    """Values and all gradients, inside of a compiled loop."""

    def evaluate(function):
        def step(carry, _):
            value, vjp = jax.vjp(function, *arguments)
            return carry, (value, vjp(jnp.sin(value)))

        return jax.jit(lambda: jax.lax.scan(step, None, None, length=1)[1])()

    ours, theirs = evaluate(with_fast_convolutions(function)), evaluate(function)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.linalg.norm(a - b) < 1e-4 * jnp.linalg.norm(b)


@pytest.mark.parametrize(
    ("layouts", "padding"),
    [
        SAME,
        (("NHWC", "HWIO", "NHWC"), "VALID"),
        (("NCHW", "OIHW", "NCHW"), "SAME"),
        (("NCHW", "HWIO", "NHWC"), ((1, 0), (2, 3))),
        (("NHWC", "OIHW", "CNHW"), ((0, 1), (0, 0))),
    ],
)
@pytest.mark.parametrize(("side", "stride", "channels"), [(3, 1, 6), (3, 2, 3), (1, 2, 4)])
def test_with_fast_convolutions_equals_any_layout(
    layouts, padding, side, stride, channels, replaced
):
    sizes = {"N": 2, "H": 9, "W": 8, "C": channels}
    kernel_sizes = {"H": side, "W": side, "I": channels, "O": 5}
    images = draw(*(sizes[axis] for axis in layouts[0]))
    kernel = draw(*(kernel_sizes[axis] for axis in layouts[1]))

    def layer(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (stride, stride), padding, dimension_numbers=layouts
        )

    check_equal(layer, images, kernel)
    assert set(replaced) == {(2, 9, 8, channels)}


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 9, 8, 4), (3, 3, 1, 8), {"feature_group_count": 4}),
        ((2, 9, 8, 4), (3, 3, 4, 8), {"rhs_dilation": (2, 2)}),
        ((2, 9, 8, 4), (3, 3, 4, 8), {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))}),
        ((2, 9, 8, 4), (3, 2, 4, 8), {}),
        ((2, 9, 8, 4), (3, 3, 4, 8), {"precision": jax.lax.Precision.HIGHEST}),
        ((2, 9, 8, 4), (3, 3, 4, 8), {"padding": ((-1, 0), (0, 0))}),
    ],
    ids=["groups", "dilated", "transposed", "oblong", "precision", "cropped"],
)
def test_with_fast_convolutions_leaves_other_convolutions(shape, kernel, options, replaced):
    options = {"padding": "SAME", "dimension_numbers": SAME[0]} | options
    plain = draw(3, 3, shape[-1], shape[-1])

    def layers(images, kernel, plain):
        return jax.lax.conv_general_dilated(layer(images, plain), kernel, (1, 1), **options)

    check_equal(layers, draw(*shape), draw(*kernel), plain)
    assert set(replaced) == {shape}, "only the first layer"


def layer(images, kernel):
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=SAME[0])


def test_with_fast_convolutions_enters_jit_and_keeps_other_operations(replaced):
    """Batch statistics, ReLU, a loop with a convolution inside, constants and several outputs."""
    constant = draw(4)

    @jax.jit
    def block(images, kernel):
        hidden = jax.nn.relu(layer(images, kernel)) + constant
        return jax.nn.silu(hidden - hidden.mean(0))

    def network(images, kernels):
        hidden = block(images, kernels["first"])
        hidden, _ = jax.lax.scan(lambda x, k: (layer(x, k), None), hidden, kernels["loop"])
        return jnp.sort(hidden.sum((1, 2)), axis=-1)

    kernels = {"first": 0.1 * draw(3, 3, 4, 4), "loop": 0.1 * draw(2, 3, 3, 4, 4)}
    check_equal(network, draw(2, 7, 7, 4), kernels)
    assert set(replaced) == {(2, 7, 7, 4)}


def test_with_fast_convolutions_works_under_vmap(replaced):
    """As in Equinox: the network is that of one image without a batch axis."""

    def one(image, kernel):
        return layer(image[None], kernel)[0].mean((0, 1))

    check_equal(jax.vmap(one, in_axes=(0, None)), draw(3, 7, 7, 4), draw(3, 3, 4, 5))
    assert replaced


def test_with_fast_convolutions_returns_what_a_function_without_them_returns():
    def function(params, images):
        return "no array", images.mean() * params

    assert with_fast_convolutions(lambda x: {"a": x})(2.0) == {"a": 2.0}
    with pytest.raises(TypeError, match="not a valid JAX type"):
        with_fast_convolutions(function)(1.0, jnp.ones(3))
