"""Models that evaluate maps and masks: generators for the holes, and transfer classifiers."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from cfx_jax import registry
from cfx_jax.classifiers import Classifier
from cfx_jax.config import ConfigError
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.fido import count_classes
from cfx_jax.generators import Generator, check_fills


class EvaluationModels(NamedTuple):
    """The models of an evaluation, except the explained classifier.

    Attributes:
        infills: generators that fill the holes of curves, and of masks learnt with another
            generator: grey first, the generator of the config last.
        baseline_infill: generator that replaces pixels for the baselines.
        classifiers: transfer classifiers, by their names in the tables.
    """

    infills: tuple[Generator, ...]
    baseline_infill: Generator
    classifiers: dict[str, Classifier]

    def identity(self) -> dict[str, Any]:
        """Returns the values that identify the models in the manifest of an evaluation."""
        return {
            "infills": [registry.identity(infill) for infill in self.infills],
            "infill": registry.identity(self.baseline_infill),
            "transfer_classifiers": [*map(registry.identity, self.classifiers.values())],
        }


def load_evaluation_models(
    config: EvaluateConfig,
    classifier: Classifier,
    generator: Generator,
    shape: tuple[int, int, int],
    given: Sequence[Classifier] = (),
) -> EvaluationModels:
    """Loads the models that a config names, in its precision.

    Args:
        config: configuration of the evaluation.
        classifier: the explained classifier.
        generator: the generator that the config names.
        shape: shape of the images, `(H, W, C)`.
        given: transfer classifiers in addition to those that the config names.

    Returns:
        The `EvaluationModels`.

    Raises:
        ConfigError: `baseline_infill` cannot be loaded or does not return pixels, or a transfer
            classifier cannot be loaded, does not accept the images, has other classes, or has the
            name of another transfer classifier.
    """
    try:
        grey = registry.load_generator("grey")
        infill = registry.load_generator(config.baseline_infill)
        check_fills(infill, shape)
    except ValueError as error:
        raise ConfigError(f"baseline_infill: {error}") from error
    infills = (grey, generator) if generator.name != "grey" else (grey,)
    classifiers: dict[str, Classifier] = {}
    for name, section in config.transfer.sections().items():
        try:
            named = dataclasses.replace(config, classifier=section)
            classifiers[name], _ = registry.load_models(named, generator=generator)
        except ConfigError as error:
            raise ConfigError(f"transfer.classifiers: {error}") from error
    for other in given:
        if other.name in classifiers:
            raise ConfigError(
                f"transfer.classifiers: two classifiers are called {other.name!r}; expected "
                "unique names, because tables show them"
            )
        classifiers[other.name], _ = registry.load_models(config, other, generator)
    for name, other in classifiers.items():
        _check(name, other, classifier, shape)
    return EvaluationModels(infills, infill, classifiers)


def _check(
    name: str, other: Classifier, classifier: Classifier, shape: tuple[int, int, int]
) -> None:
    images = jnp.zeros((1, *shape))
    height, width, channels = shape
    try:
        if other.channels != channels:
            raise ValueError(f"it takes images of {other.channels} channels")
        classes = count_classes(other, images)
    except Exception as error:  # A network may fail in any way on images of another kind.
        raise ConfigError(
            f"transfer.classifiers: {name} cannot classify the images of {classifier.name}, "
            f"{height} x {width} with {channels} channels ({str(error).splitlines()[0]}); expected "
            "a classifier of such images: give another one, or leave it out"
        ) from error
    expected = count_classes(classifier, images)
    if classes != expected:
        raise ConfigError(
            f"transfer.classifiers: {name} has {classes} classes, {classifier.name} has "
            f"{expected}; expected the same classes: give weights trained for them "
            "(NAME=WEIGHTS), or leave it out"
        )
