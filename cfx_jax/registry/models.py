"""The models of a run: loaded as a config asks, and known by digests."""

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
    """Loads the models a config names, where they are not given, in the precision it asks for.

    Args:
        config: its sections `classifier` and `generator`, and `precision`.
        classifier: in place of the one the config names.
        generator: in place of the one the config names.

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
    """Returns a config whose precision `auto` has become what suits the backend, and logs which.

    Args:
        config: of a run or an evaluation. The backend must be up: hosts of a pod have joined.

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


def name_given(
    config: Config, classifier: Classifier | None, generator: Generator | None
) -> Config:
    """Returns a config that says of models that are given their names, and no more.

    Args:
        config: of a run.
        classifier: in place of the one the config names; None leaves it to the config.
        generator: in place of the one the config names; None leaves it to the config.

    Raises:
        ConfigError: what is given is no model, or the config says something of its own classifier.
    """
    for given, expected in ((classifier, Classifier), (generator, Generator)):
        if given is not None and not isinstance(given, expected):
            raise ConfigError(
                f"{expected.__name__.lower()} is a {type(given).__name__}; expected a "
                f"cfx_jax.{expected.__name__}, see cfx_jax.adapters, or give a name in the config"
            )
    if classifier is not None:
        _refuse_duplicates(config.classifier)
        config = dataclasses.replace(config, classifier=ClassifierConfig(classifier.name))
    if generator is not None:
        config = dataclasses.replace(config, generator=GeneratorConfig(generator.name))
    return config


def identity(model: Classifier | Generator) -> dict[str, Any]:
    """Returns what a manifest keeps of a model: its name and the digest of its weights.

    Of a model that a function of the user's own builds, also the digest of that and its weights.
    """
    digest = getattr(model, "host_weights", "") or weights_digest(model.params)
    found: dict[str, Any] = {"name": model.name, "weights_digest": digest}
    if isinstance(model, Classifier):
        # What it sees is part of what it is.
        found |= {"crop": model.crop, "interpolation": model.interpolation}
    if model.origin:
        found["origin"] = model.origin
    return found


def weights_digest(params: Any) -> str:
    """Returns the SHA-256 of a parameter tree: names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        # As models of Flax NNX keep for their dropout.
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _refuse_duplicates(section: ClassifierConfig) -> None:
    """What a section says of its own classifier would be lost on one that is given."""
    usual = dataclasses.asdict(ClassifierConfig(section.name, section.weights))
    said = [name for name, value in dataclasses.asdict(section).items() if value != usual[name]]
    if said:
        raise ConfigError(
            f"classifier.{said[0]} is for the classifier that the config names, and another "
            "is given; change that one, as in classifier.replace(image_size=(224, 224))"
        )
