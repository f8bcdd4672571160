"""The typed config of a run: valid values, and the config files of the package."""

import dataclasses
import importlib.util
import pathlib
import re

import pytest

from cfx_jax.classifiers import NORMALIZATIONS
from cfx_jax.config import (
    ClassifierConfig,
    Config,
    ConfigError,
    check_field,
)
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.fido.settings import MODES
from cfx_jax.registry import NETWORKS
from cfx_jax.train.config import MODELS, TrainClassifierConfig, TrainConfig

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_files_are_valid_and_name_their_command(path):
    module = load(path)
    config = module.get_config()
    command = {TrainConfig: "train", TrainClassifierConfig: "train_classifier",
               EvaluateConfig: "evaluate", Config: "main"}[type(config)]  # fmt: skip
    config.validate()
    assert f"python -m cfx_jax.{command} --config=configs/{path.name}" in module.__doc__
    assert config is not module.get_config()


def test_config_files_include_demo_and_imagenet():
    assert {path.stem for path in CONFIGS} >= {"demo", "imagenet"}


def test_config_defaults_are_valid():
    Config().validate()
    TrainConfig().validate()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("model", "lama", "model is 'lama'; expected one of gated_unet"),
        ("batch_size", 0, "batch_size is 0; expected a whole number of at least 1"),
        ("crop_size", 8, "crop_size is 8; expected a whole number of at least 16"),
        ("seed", 2**32, "seed is 4294967296; expected at most"),
        ("warmup_steps", 20_000, "expected 1 <= warmup_steps < num_steps"),
        ("learning_rate", 0.0, "expected a positive rate"),
        ("ema_decay", 1.0, "ema_decay 1.0; expected .* a decay of at least 0, below 1"),
        ("feature_weight", -1.0, "feature_weight is -1.0 .* expected at least 0"),
    ],
)
def test_train_config_refuses_invalid_values(field, value, expected):
    with pytest.raises(ConfigError, match=expected):
        dataclasses.replace(TrainConfig(), **{field: value}).validate()


def test_config_accepts_every_normalization():
    for name in ("", *NORMALIZATIONS):
        Config(classifier=ClassifierConfig(normalization=name)).validate()


def test_train_config_checks_its_data():
    config = TrainConfig()
    config.heldout.source = "web"
    with pytest.raises(ConfigError, match=r"heldout.source is 'web'"):
        config.validate()


def test_train_config_covers_every_model():
    assert set(MODELS) <= set(NETWORKS)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "data.source",
            "web",
            r"data\.source is 'web'; expected one of bundled, folder, npz, tfds",
        ),
        ("data.resize", "pad", r"data\.resize is 'pad'; expected one of crop, cover, stretch"),
        ("data.class_folders", True, r"class_folders is for data\.source=folder; got bundled"),
        ("data.white", 4095, r"data\.white is for data\.source=folder; got bundled"),
        ("data.white", 0, r"data\.white is 0; expected a whole number of at least 1"),
        ("data.white", 255.0, r"data\.white is 255\.0; expected a whole number"),
        ("data.max_examples", 0, r"data\.max_examples is 0; expected .* at least 1"),
        (
            "explain.objective",
            "SSR",
            r"explain\.objective is 'SSR'; .* ssr, sdr, both",
        ),
        (
            "explain.mode",
            "slow",
            r"explain: unknown mode 'slow'; known are bbmp, fast, paper, region",
        ),
        ("explain.num_steps", -1, r"explain: num_steps is -1; expected .* at least 1"),
        ("explain.learning_rate", 0.0, r"explain: learning_rate is 0\.0"),
        ("explain.sparsity_weight", -1.0, r"explain: sparsity_weight is -1\.0"),
        ("batch.per_device_batch_size", 0, r"batch\.per_device_batch_size is 0"),
        ("batch.unit_size", 0, r"batch\.unit_size is 0"),
        ("report.max_images", -1, r"report\.max_images is -1; expected .* at least 0"),
        ("seed", -1, r"seed is -1; expected .* at least 0"),
        ("seed", 2**32, "seed is 4294967296; expected at most 4294967295"),
        ("seed", float("nan"), "seed is nan; expected a whole number"),
        ("data.max_examples", 2.5, r"data\.max_examples is 2\.5; expected a whole number"),
        ("batch.unit_size", True, r"batch\.unit_size is True; expected a whole number"),
        ("batch.per_device_batch_size", "8", r"batch\.per_device_batch_size is '8'"),
        ("report.max_images", None, r"report\.max_images is None"),
        ("explain.num_samples", 0, "explain: num_samples is 0"),
        ("explain.tv_weight", float("nan"), "explain: tv_weight is nan; expected 0 or more"),
        ("explain.mask_size", 7.0, r"explain: mask_size is 7\.0"),
        (
            "classifier.normalization",
            "Imagenet",
            r"classifier\.normalization is 'Imagenet'; expected one of imagenet, symmetric",
        ),
        ("classifier.channel_order", "brg", r"channel_order is 'brg'; expected one of rgb, bgr"),
        ("classifier.interpolation", "cubic", r"interpolation is 'cubic'; expected one of bicubic"),
        ("classifier.crop", 0.0, r"crop is 0\.0; expected a share above 0, up to 1"),
        ("classifier.crop", 87.5, r"crop is 87\.5; expected a share above 0, up to 1"),
        ("classifier.mean", (0.5,), r"expected one number of each for a channel"),
        ("classifier.mean", ("abc",), r"mean is \('abc',\) and .* expected one number of each"),
    ],
)
def test_config_names_invalid_values(field, value, message):
    config = Config()
    section, _, name = field.rpartition(".")
    setattr(getattr(config, section) if section else config, name, value)
    with pytest.raises(ConfigError, match=message):
        config.validate()


def test_config_refuses_a_mean_of_images_up_to_255():
    classifier = ClassifierConfig(mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
    with pytest.raises(ConfigError, match=r"expected means of images in .* divide mean and std by"):
        Config(classifier=classifier).validate()


def test_config_refuses_a_crop_without_cropping():
    config = Config(classifier=ClassifierConfig(crop=0.9))
    config.validate()
    config.data.resize = "stretch"
    with pytest.raises(ConfigError, match=r"crop is 0\.9, but data\.resize is 'stretch'"):
        config.validate()


def test_config_unset_field_keeps_the_value_of_the_mode():
    config = Config()
    assert config.explain.settings() == MODES["region"]
    config.explain.mode = "paper"
    config.explain.num_samples = 2
    settings = config.explain.settings()
    assert settings.num_samples == 2
    assert settings.num_steps == MODES["paper"].num_steps


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_steps", 300),
        ("num_samples", 5),
        ("learning_rate", 0.5),
        ("warmup_steps", 4),
        ("sparsity_weight", 0.0),  # Given, though false.
        ("tv_weight", 0.25),
        ("initial_keep", 0.5),
        ("mask_size", 14),
        ("block_size", 32),
        ("smooth_scale", 0.25),
        ("smoothing", 1.5),
        ("perimeter_weight", 0.1),
        ("margin_cap", 3.0),
        ("success_target", 0.8),
        ("sharpness", 2.0),
        ("warm_start_steps", 0),
        ("patience", 9),
    ],
)
def test_config_overrides_reach_their_settings(field, value):
    config = Config()
    config.explain.mode = "fast"
    setattr(config.explain, field, value)
    assert config.explain.settings() == dataclasses.replace(MODES["fast"], **{field: value})


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("both", ("ssr", "sdr")), ("ssr", ("ssr",)), ("sdr", ("sdr",))],
)
def test_config_objectives_are_in_order(objective, expected):
    config = Config()
    config.explain.objective = objective
    assert config.explain.objectives == expected


@pytest.mark.parametrize("path", ["seed", "data", "data.path", "explain.num_steps"])
def test_check_field_accepts_existing_fields(path):
    check_field(Config(), path)


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("steps", "seed, precision, data, classifier"),
        (
            "explain.steps",
            "objective, mode, target, contrast, top_classes, num_steps, num_samples",
        ),
        ("seed.value", "none"),
    ],
)
def test_check_field_lists_the_existing_fields(path, known):
    with pytest.raises(ConfigError, match=re.escape(f"config.{path}; known there: {known}")):
        check_field(Config(), path)
