"""bfloat16: what is cast, what is not, and the differences of the results."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.fido.precision import in_bfloat16
from cfx_jax.registry import NETWORKS
from cfx_jax.weights.architectures import ARCHITECTURES
from cfx_jax.weights.preprocessing import Preprocessing

KEY = jax.random.key(0)


def test_in_bfloat16_classifier_gets_bfloat16_and_returns_float32(images):
    seen = []

    def apply(params, images):
        seen.extend([params["a"].dtype, params["count"].dtype, images.dtype])
        return images.mean((1, 2)) * params["a"]

    params = {"a": jnp.ones(3), "count": jnp.arange(3)}
    model = in_bfloat16(cfx_jax.Classifier(params=params, apply=apply, name="mine"))
    assert model.apply(model.params, images).dtype == jnp.float32
    assert seen == [jnp.bfloat16, jnp.int32, jnp.bfloat16]
    assert model.name == "mine"
    gradient = jax.grad(lambda x: model.apply(model.params, x).sum())(images)
    assert gradient.dtype == jnp.float32


def products(jaxpr):
    """Yields all convolutions and matrix products of a jaxpr."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


def check_is_bfloat16(function, *arguments):
    """Looks at a function and its gradient by the first argument."""

    def total(*arguments):
        return function(*arguments).astype(jnp.float32).sum()

    shapes = jax.tree.map(
        lambda leaf: (
            jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        ),
        arguments,
    )
    found = list(products(jax.make_jaxpr(jax.grad(total))(*shapes).jaxpr))
    types = {operand.aval.dtype.name for equation in found for operand in equation.invars}
    assert len(found) > 3
    assert types == {"bfloat16"}


@pytest.mark.parametrize("name", NETWORKS)
def test_in_bfloat16_covers_every_product_of_a_generator(name):
    network = NETWORKS[name]
    size = min(network.image_size, 64)
    images = jax.ShapeDtypeStruct((1, size, size, network.channels), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    params = jax.eval_shape(network.init, KEY)
    check_is_bfloat16(lambda x, p, m: network.apply(p, x, m, KEY), images, params, mask)


@pytest.mark.parametrize(
    "name",
    # One of each family: more blocks of a kind show nothing new.
    ["efficientnet_lite0", "resnet18", "resnet50", "vgg16_bn", "alexnet", "vit_s16", "mnist_cnn"],
)
def test_in_bfloat16_covers_every_product_of_a_classifier(name):
    architecture = ARCHITECTURES[name]
    module, size = architecture.module, architecture.sizes(architecture.module, Preprocessing())
    images = jax.ShapeDtypeStruct((1, *size, architecture.channels), jnp.float32)
    params = architecture.template(module)
    check_is_bfloat16(lambda x, p: module.apply({"params": p}, x), images, params)


def test_in_bfloat16_traces_a_model_cast_twice_once(images):
    traces = []

    def apply(params, images):
        traces.append(params)
        return images.mean((1, 2)) * params

    run = jax.jit(lambda model: model.apply(model.params, images))
    model = cfx_jax.Classifier(params=jnp.ones(3), apply=apply)
    for _ in range(3):
        run(in_bfloat16(model))
    assert len(traces) == 1


def test_in_bfloat16_releases_a_model_after_use(images):
    def apply(params, images):
        return images.mean((1, 2)) * params

    half = in_bfloat16(cfx_jax.Classifier(params=jnp.ones(3), apply=apply))
    half.apply(half.params, images)
    kept = weakref.ref(apply)
    del apply, half
    gc.collect()
    assert kept() is None


def test_in_bfloat16_logits_are_close_to_float32(random_classifier, images):
    expected = random_classifier.apply(random_classifier.params, images)
    half = in_bfloat16(random_classifier)
    found = half.apply(half.params, images)
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["grey", "local_mean", "gated_unet"])
def test_in_bfloat16_generators_keep_their_key_and_are_close(name):
    generator = cfx_jax.load_generator(name)
    half = in_bfloat16(generator)
    images = jax.random.uniform(KEY, (2, 8, 8, 3))
    images = jax.image.resize(images, (2, 32, 32, 3), "linear")
    mask = jax.random.bernoulli(KEY, 0.5, (2, 32, 32, 1)).astype(jnp.float32)
    expected, found = (
        jax.jit(model.apply)(model.params, images, mask, KEY) for model in (generator, half)
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_explain_in_bfloat16_is_close_to_float32(random_classifier, fill_half, images):
    options = {"targets": np.arange(5), "mode": "fast", "mask_size": 8, "num_steps": 40}
    expected = cfx_jax.explain(KEY, random_classifier, fill_half, images, **options)
    half = in_bfloat16(random_classifier), in_bfloat16(fill_half)
    found = cfx_jax.explain(KEY, *half, images, **options)
    assert np.ptp(expected.keep_prob) > 0.5
    assert np.abs(found.keep_prob - expected.keep_prob).mean() < 0.03
