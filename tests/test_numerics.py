"""Results do not depend on settings, keys and meshes of JAX."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import cfx_jax
from cfx_jax import numerics
from cfx_jax.baselines import attribute
from cfx_jax.config import Config, DataConfig, ExplainConfig, GeneratorConfig, ReportConfig
from cfx_jax.evaluate import evaluate
from cfx_jax.fido.areas import explain_areas
from cfx_jax.generators import check_key
from cfx_jax.records import RecordReader
from cfx_jax.train import train, train_classifier

IMAGES = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
NOISE = cfx_jax.load_generator("random_color")
SMALL = {"mode": "fast", "mask_size": 4, "num_steps": 2, "num_samples": 1}


def colours(params, images):
    return images.mean((1, 2)) * params


CLASSIFIER = cfx_jax.Classifier(params=jnp.full(3, 40.0), apply=colours)
DRAWING = {
    "explain": lambda key, x: cfx_jax.explain(key, CLASSIFIER, NOISE, x, **SMALL).mask_logits,
    "attribute": lambda key, x: attribute("random", key, CLASSIFIER, NOISE, x),
    "infill": lambda key, x: cfx_jax.infill(key, NOISE, x, jnp.zeros((*x.shape[:3], 1))),
}


@pytest.mark.parametrize(
    "function",
    [cfx_jax.explain, cfx_jax.explain_both, cfx_jax.explain_one, explain_areas, attribute,
     cfx_jax.infill, cfx_jax.run, cfx_jax.load_classifier, cfx_jax.load_generator,
     cfx_jax.Classifier.check, evaluate, train, train_classifier],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_public_functions_compute_under_own_settings(function):
    assert function.__code__ is numerics.jax_config(numerics.API_CONFIG)(len).__code__


@pytest.mark.parametrize("name", DRAWING)
def test_public_functions_compute_under_any_settings(name):
    expected = DRAWING[name](jax.random.key(0), IMAGES)
    with contextlib.ExitStack() as stack:
        for context in (
            jax.numpy_rank_promotion("raise"),
            jax.numpy_dtype_promotion("strict"),
            jax.default_prng_impl("rbg"),
            jax.threefry_partitionable(False),
            jax.debug_key_reuse(True),
            jax.debug_infs(True),
        ):
            stack.enter_context(context)
        found = DRAWING[name](jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(found, expected)


def test_check_key_converts_every_implementation():
    expected = jax.random.split(jax.random.key(7))[1]
    for implementation in ("rbg", "threefry2x32"):
        key = check_key(jax.random.split(jax.random.key(7, impl=implementation))[1])
        assert key == expected
    assert jax.jit(check_key)(jax.random.key_data(expected)) == expected


def test_settings_are_restored_after_an_error():
    before = dict(jax.config.values)

    @numerics.jax_config(numerics.COMMAND_CONFIG)
    def fails():
        assert not jax.config.jax_enable_x64
        raise KeyError

    with jax.enable_x64(True), pytest.raises(KeyError):
        fails()
    assert dict(jax.config.values) == before


@pytest.mark.parametrize("name", ["attribute", "infill"])
def test_public_functions_accept_explicit_sharding(name):
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Explicit,))
    sharded = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec("devices")))
    expected = DRAWING[name](jax.random.key(0), IMAGES)
    np.testing.assert_allclose(DRAWING[name](jax.random.key(0), sharded), expected, atol=1e-4)
    with jax.set_mesh(mesh):
        found = DRAWING[name](jax.random.key(0), IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_run_does_not_depend_on_settings_and_mesh(tmp_path):
    config = Config(
        data=DataConfig(max_examples=1),
        explain=ExplainConfig(objective="ssr", mode="fast", num_steps=2, mask_size=4),
        generator=GeneratorConfig("random_color"),
        report=ReportConfig(save_images=False),
    )
    labels = np.random.default_rng(1).normal(size=(3, 1000)).astype(np.float32)

    def logits(params, images):
        return 9 * images.mean((1, 2)) @ params

    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Explicit,))
    settings = (
        jax.default_prng_impl("rbg"), jax.disable_jit(True), jax.debug_key_reuse(True),
        jax.set_mesh(mesh),
    )  # fmt: skip
    for name, contexts in (("plain", ()), ("other", settings)):
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            classifier = cfx_jax.Classifier(jnp.asarray(labels), logits, image_size=(8, 8))
            cfx_jax.run(config, tmp_path / name, classifier=classifier)
    plain, other = (
        RecordReader(tmp_path / name).read("ssr_mask_logits") for name in ("plain", "other")
    )
    np.testing.assert_array_equal(plain, other)


@pytest.fixture
def seed_offset():
    jax.config.update("jax_random_seed_offset", 5)
    yield
    jax.config.update("jax_random_seed_offset", 0)


def test_check_key_of_a_seed_does_not_depend_on_the_seed_offset(seed_offset):
    assert np.asarray(jax.random.key_data(check_key(7))).tolist() == [0, 7]


def test_explain_computes_with_forbidden_pixels_and_without_transfers():
    allowed = np.zeros((8, 8), bool)
    allowed[:, :6] = True
    with jax.debug_infs(True), jax.transfer_guard("disallow"):
        e = cfx_jax.explain(0, CLASSIFIER, NOISE, IMAGES, allowed=allowed, **SMALL)
    assert not e.region[:, :, 6:].any()
