"""Loads classifiers, with their weights, by name."""

import dataclasses
import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cfx_jax import adapters, numerics
from cfx_jax.adapters import named
from cfx_jax.classifiers import (
    NORMALIZATIONS,
    Classifier,
    Normalization,
    NormalizedModule,
    class_count,
)
from cfx_jax.config import ClassifierConfig, ConfigError
from cfx_jax.fido import count_classes
from cfx_jax.registry import user_models
from cfx_jax.registry.names import look_up, path_of
from cfx_jax.weights import (
    ARCHITECTURES,
    Architecture,
    Preprocessing,
    build_network,
    packaged_weights,
    read_weights,
)
from cfx_jax.weights import class_names as class_names_file

_logger = logging.getLogger(__name__)


@numerics.jax_config(numerics.API_CONFIG)
def load_classifier(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    normalization: str | Normalization | None = None,
) -> Classifier:
    """Loads a classifier with its weights by name.

    Args:
        name: name of an architecture: `"efficientnet_lite0"` to `2`, `"resnet18"` to `152`,
            `"vgg16"`, `"vgg19"`, both also with `_bn`, `"alexnet"`, `"vit_t16"` to `"vit_l32"`,
            `"convnext_tiny"` to `"convnext_large"`, `"mnist_cnn"`; or of a user-defined function,
            `"package.module:function"` or `"path/to/file.py:function"`, that returns a model of any
            kind that `cfx_jax.adapters.as_classifier` supports.
        weights: path of a file or folder in a published layout or the layout of cfx_jax, or
            `hf://owner/name[/file]`; the head of the file determines the number of classes. With
            the suffix `#PLACE`, such as `best.pth#state_dict_ema`, only the arrays below that place
            are used. None = the weights of an installed package, if there is one.
        class_names: one name per class, two for a head of one logit; None = the names in the
            `config.json` next to the weights, or those of the data set of the published weights, if
            their number fits.
        normalization: name `"imagenet"`, `"symmetric"` (to [-1, 1]), `"mnist"`, `"none"` or your
            own `Normalization`; None = that of the `config.json` or `preprocessor_config.json` next
            to the weights, or of the published weights.

    Returns:
        A `Classifier` whose parameters are on the default device.

    Raises:
        ValueError: a name is unknown (the known names are listed), the file does not contain this
            network, or the number of class names differs from the number of classes.
        FileNotFoundError: the weights file does not exist.

    Example:
        >>> import cfx_jax
        >>> classifier = cfx_jax.load_classifier("efficientnet_lite0")
        >>> classifier.image_size
        (224, 224)
    """
    path = path_of(weights)
    given: Normalization | None = (
        look_up("normalization", NORMALIZATIONS, normalization)
        if isinstance(normalization, str)
        else normalization
    )
    if named.is_named(name):
        known = adapters.Known(normalization=given, class_names=class_names or ())
        return _build(name, path, known)
    architecture: Architecture = look_up("classifier", ARCHITECTURES, name)
    path = path or packaged_weights(name)
    try:
        arrays, opaque, preprocessing = read_weights(path)
        if given is not None:
            preprocessing = preprocessing._replace(normalization=given)
        module, params, published = build_network(name, arrays, opaque, preprocessing)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if path in message else f"{path}: {message}") from error
    if description := preprocessing.describe():
        _logger.info("%s: %s", path, description)
    num_classes = class_count(module.num_classes)
    if class_names is None:
        class_names = _known_class_names(architecture, preprocessing, num_classes)
        if preprocessing.class_names and len(preprocessing.class_names) != num_classes:
            _logger.warning(
                "%s: ignoring the names of %d classes next to the weights, which have %d classes",
                path,
                len(preprocessing.class_names),
                num_classes,
            )
    else:
        user_models.check_class_names(class_names, num_classes, path)
    return Classifier(
        params=jax.device_put(params),
        apply=NormalizedModule(module, published),
        name=name,
        class_names=tuple(class_names),
        image_size=architecture.sizes(module, preprocessing),
        channels=architecture.channels,
        **_scaling_fields(preprocessing.crop, preprocessing.interpolation),
    )


def is_loadable(name: str) -> bool:
    """Returns whether a name refers to an architecture or to a user-defined function."""
    return name in ARCHITECTURES or named.is_named(name)


def load_configured(config: ClassifierConfig) -> Classifier:
    """Loads the classifier of a config section, with the settings of the section.

    Raises:
        ConfigError: the class names cannot be read, or a field does not apply to this classifier.
        ValueError, FileNotFoundError: see `load_classifier`.
    """
    class_names = _read_class_names(config.class_names) if config.class_names else None
    normalization: Normalization | None = None
    if config.normalization:
        normalization = look_up("normalization", NORMALIZATIONS, config.normalization)
    elif config.mean:
        normalization = Normalization(tuple(config.mean), tuple(config.std))
    size = None if config.image_size is None else (config.image_size, config.image_size)
    scaling = _scaling_fields(config.crop, config.interpolation)
    if named.is_named(config.name):
        if config.channel_order != "rgb":
            normalization = _with_channel_order(
                normalization or NORMALIZATIONS["none"], config.channel_order
            )
        known = adapters.Known(
            size, config.channels, normalization, class_names or (), config.logits, **scaling
        )
        return _build(config.name, config.weights or None, known)
    channels = look_up("classifier", ARCHITECTURES, config.name).channels
    if len(config.mean) not in (0, 1, channels):
        raise ConfigError(
            f"classifier.mean has {len(config.mean)} numbers, and images of {config.name} have "
            f"{channels} channels; expected one number per channel, or a single one"
        )
    classifier = load_classifier(
        config.name,
        config.weights or None,
        class_names=class_names,
        normalization=normalization,
    )
    if config.channels not in (None, classifier.channels):
        raise ConfigError(
            f"classifier.channels: {config.channels}, but images of {config.name} have "
            f"{classifier.channels}; leave it out, since it is for your own classifiers only"
        )
    apply = classifier.apply
    if isinstance(apply, NormalizedModule):
        ordered = _with_channel_order(apply.normalization, config.channel_order)
        apply = dataclasses.replace(apply, normalization=ordered)
    return dataclasses.replace(
        classifier,
        apply=apply,
        image_size=size or classifier.image_size,
        logits=config.logits or classifier.logits,
        **scaling,
    )


def _build(name: str, weights: str | None, known: adapters.Known) -> Classifier:
    """Builds a classifier with a user-defined function."""

    def example_inputs(classifier: Classifier) -> tuple[jax.Array, ...]:
        return (jnp.zeros((1, *(classifier.image_size or (64, 64)), classifier.channels)),)

    adapt = functools.partial(adapters.as_classifier, known=known, name=name)
    classifier = user_models.build(name, weights, adapt, example_inputs)
    if not classifier.class_names:
        return classifier
    try:
        num_classes = count_classes(classifier, *example_inputs(classifier))
    except Exception:  # The error is reported where the model is first called.
        return classifier
    user_models.check_class_names(classifier.class_names, num_classes, name)
    return classifier


def _with_channel_order(normalization: Normalization, channel_order: str) -> Normalization:
    return dataclasses.replace(normalization, channel_order=channel_order)


def _scaling_fields(crop: float | None, interpolation: str) -> dict[str, Any]:
    """Returns the known fields of a classifier that describe the scaling of its images."""
    fields = {"crop": crop, "interpolation": interpolation}
    return {name: value for name, value in fields.items() if value}


def _known_class_names(
    architecture: Architecture, preprocessing: Preprocessing, num_classes: int
) -> tuple[str, ...]:
    """Returns the names next to the weights, or the published names, whose number fits, or ()."""
    published = class_names_file.read_packaged(architecture.class_names)
    return next((n for n in (preprocessing.class_names, published) if len(n) == num_classes), ())


def _read_class_names(path: str) -> list[str]:
    try:
        return class_names_file.read(path)
    except OSError as error:
        raise ConfigError(
            f"classifier.class_names: {path!r} cannot be read; expected the path of a text file "
            f"with one class name per line ({error.strerror})"
        ) from error
    except UnicodeError as error:
        raise ConfigError(
            f"classifier.class_names: {path} is not text in UTF-8; save it in UTF-8 ({error})"
        ) from error
    except ValueError as error:
        raise ConfigError(f"classifier.class_names: {path}: {error}") from error
