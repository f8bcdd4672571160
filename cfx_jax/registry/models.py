"""Loads the models of a run from a config, and identifies them by digests."""

import dataclasses
import hashlib
import logging
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers import Classifier
from cfx_jax.config import ClassifierConfig, Config, ConfigError, GeneratorConfig
from cfx_jax.fido import in_bfloat16
from cfx_jax.generators import Generator
from cfx_jax.registry.classifiers import load_configured
from cfx_jax.registry.generators import load_generator

_logger = logging.getLogger(__name__)
_AnyConfig = TypeVar("_AnyConfig", bound=Config)


def load_models(
    config: Config, classifier: Classifier | None = None, generator: Generator | None = None
) -> tuple[Classifier, Generator]:
    """Loads the models that a config names, unless passed as objects, in the configured precision.

    Args:
        config: config of a run; uses `classifier`, `generator` and `precision`.
        classifier: object to use instead of the classifier that the config names.
        generator: object to use instead of the generator that the config names.

    Returns:
        The classifier and the generator.

    Raises:
        ConfigError: a name is unknown, or weights or class names cannot be read.
    """
    try:
        if classifier is None:
            classifier = load_configured(config.classifier)
        if generator is None:
            generator = load_generator(config.generator.name, config.generator.weights or None)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    if config.precision == "bfloat16":
        return in_bfloat16(classifier), in_bfloat16(generator)
    return classifier, generator


def resolve_precision(config: _AnyConfig) -> _AnyConfig:
    """Replaces the precision `auto` of a config by the precision for the backend, and logs it.

    Args:
        config: config of a run or an evaluation. The backend must be initialised, so the hosts of a
            pod must have joined.

    Returns:
        The config with precision `float32` or `bfloat16`.

    Example:
        >>> from cfx_jax.config import Config
        >>> resolve_precision(Config(precision="float32")).precision
        'float32'
    """
    if config.precision != "auto":
        return config
    backend = jax.default_backend()
    precision = "float32" if backend == "cpu" else "bfloat16"
    _logger.info("precision: %s, on %s", precision, backend)
    return dataclasses.replace(config, precision=precision)


def name_given_models(
    config: Config, classifier: Classifier | None, generator: Generator | None
) -> Config:
    """Replaces the config sections of models that are passed as objects by their names.

    Args:
        config: config of a run.
        classifier: object that replaces the classifier of the config; None = no replacement.
        generator: object that replaces the generator of the config; None = no replacement.

    Returns:
        The config with the names of the given models.

    Raises:
        ConfigError: an object is not a model, or the config has settings for a replaced classifier.
    """
    for given, expected in ((classifier, Classifier), (generator, Generator)):
        if given is not None and not isinstance(given, expected):
            raise ConfigError(
                f"{expected.__name__.lower()} is a {type(given).__name__}; expected a "
                f"cfx_jax.{expected.__name__}, see cfx_jax.adapters, or a name in the config"
            )
    if classifier is not None:
        _check_no_settings(config.classifier)
        config = dataclasses.replace(config, classifier=ClassifierConfig(classifier.name))
    if generator is not None:
        config = dataclasses.replace(config, generator=GeneratorConfig(generator.name))
    return config


def identity(model: Classifier | Generator) -> dict[str, Any]:
    """Returns the identity of a model for a manifest: its name and the digest of its weights.

    A model that a user-defined function builds is also identified by the digest of its `origin`.
    """
    digest = getattr(model, "host_weights", "") or weights_digest(model.params)
    fields: dict[str, Any] = {"name": model.name, "weights_digest": digest}
    if isinstance(model, Classifier):
        # The preparation of its images is part of its identity.
        fields |= {"crop": model.crop, "interpolation": model.interpolation}
    if model.origin:
        fields["origin"] = model.origin
    return fields


def weights_digest(params: Any) -> str:
    """Returns the SHA-256 of a parameter tree: names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        # Models of Flax NNX have random keys for their dropout layers.
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check_no_settings(section: ClassifierConfig) -> None:
    """Raises if a section has settings, which would not apply to a classifier object."""
    defaults = dataclasses.asdict(ClassifierConfig(section.name, section.weights))
    values = dataclasses.asdict(section)
    changed = [name for name, value in values.items() if value != defaults[name]]
    if changed:
        raise ConfigError(
            f"classifier.{changed[0]} is for the classifier that the config names, but another is "
            "given; change that one, as in classifier.replace(image_size=(224, 224))"
        )
