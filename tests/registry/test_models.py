"""The models of a run, and their identities."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from cfx_jax import registry
from cfx_jax.config import ClassifierConfig, Config, ConfigError, GeneratorConfig
from cfx_jax.registry import weights_digest


def test_weights_digest_depends_on_names_types_shapes_and_values():
    params = {"kernel": np.arange(6, dtype=np.float32), "bias": np.zeros(2, np.float32)}
    changes = [
        params | {"kernel": params["kernel"] + np.float32(1e-6)},
        params | {"kernel": params["kernel"].reshape(2, 3)},
        params | {"bias": params["bias"].view(np.int32)},
        {"kernels": params["kernel"], "bias": params["bias"]},
    ]
    digests = {weights_digest(tree) for tree in (params, *changes)}
    assert len(digests) == 5
    reordered = {"bias": params["bias"], "kernel": params["kernel"]}
    assert weights_digest(reordered) == weights_digest(params)


def test_weights_digest_does_not_depend_on_the_device():
    params = {"kernel": np.arange(6, dtype=np.float32)}
    moved = jax.device_put(params, jax.devices()[-1])
    assert weights_digest(moved) == weights_digest(params)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("classifier", {"name": "lenet"}, "lenet.*known are .*efficientnet_lite0"),
        ("generator", {"name": "magic"}, "magic.*blur, .*grey, local_mean"),
        ("classifier", {"weights": "none.pth"}, r"none\.pth"),
        (
            "classifier",
            {"class_names": "/no/such/names.txt"},
            r"classifier\.class_names: '/no/such/names\.txt' cannot be read; .* name per line",
        ),
    ],
)
def test_load_models_refuses_a_config_without_loadable_models(section, changes, message):
    requested = Config()
    setattr(requested, section, dataclasses.replace(getattr(requested, section), **changes))
    with pytest.raises(ConfigError, match=message):
        registry.load_models(requested)


def test_load_models_given_models_replace_those_of_the_config(random_classifier, fill_half):
    requested = Config(classifier=ClassifierConfig("lenet"), generator=GeneratorConfig("magic"))
    assert registry.load_models(requested, random_classifier, fill_half) == (
        random_classifier,
        fill_half,
    )
    requested.precision = "bfloat16"
    classifier, _ = registry.load_models(requested, random_classifier, fill_half)
    assert classifier.apply is not random_classifier.apply


@pytest.mark.parametrize(
    ("requested", "backend", "precision"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "gpu", "bfloat16"),
        ("auto", "tpu", "bfloat16"),
        ("float32", "tpu", "float32"),
        ("bfloat16", "cpu", "bfloat16"),
    ],
)
def test_resolve_precision_auto_follows_the_backend(
    requested, backend, precision, monkeypatch, caplog
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with caplog.at_level(logging.INFO, "cfx_jax"):
        assert registry.resolve_precision(Config(precision=requested)).precision == precision
    assert (f"precision: {precision}, on {backend}" in caplog.text) == (requested == "auto")
