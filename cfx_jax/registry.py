"""Names -> classifiers and generators with their weights."""

import dataclasses
import functools
import hashlib
import importlib.resources
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax import adapters
from cfx_jax.adapters import named
from cfx_jax.classifiers import (
    NORMALIZATIONS,
    Classifier,
    Normalization,
    NormalizedModule,
    classes_of,
)
from cfx_jax.config import ClassifierConfig, Config, ConfigError
from cfx_jax.fido.batch import ask
from cfx_jax.fido.checks import check_contrast, check_problem
from cfx_jax.fido.precision import in_bfloat16
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import (
    Generator,
    Loss,
    contextual_attention,
    gated_unet,
    heuristic,
    in_turn,
    vae,
)
from cfx_jax.weights import class_names as class_names_file
from cfx_jax.weights import contextual_attention as contextual_attention_weights
from cfx_jax.weights.architectures import ARCHITECTURES, Architecture, packaged_weights
from cfx_jax.weights.facts import Facts
from cfx_jax.weights.files import local_path, read_weights
from cfx_jax.weights.fitting import lay_out
from cfx_jax.weights.params_file import read_params

_logger = logging.getLogger(__name__)


class Network(NamedTuple):
    """A generator with parameters.

    Attributes:
        init: key -> initial parameters.
        loss: what it is trained on, a `cfx_jax.generators.Loss`.
        apply: of its `Generator`.
        channels: of its images.
        image_size: side of the images it is measured on.
    """

    init: Callable[[jax.Array], Any]
    loss: Loss
    apply: Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]
    channels: int
    image_size: int


def load_classifier(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    normalization: str | Normalization | None = None,
) -> Classifier:
    """Loads a classifier with its weights by name.

    Args:
        name: of an architecture: `"efficientnet_lite0"` to `2`, `"resnet18"` to `152`, `"vgg16"`,
            `"vgg19"`, both also with `_bn`, `"alexnet"`, `"vit_s16"` to `"vit_l32"`, `"mnist_cnn"`;
            or a function of your own, `"package.module:function"` or `"path/to/file.py:function"`,
            that returns a model of any kind that `cfx_jax.adapters.as_classifier` takes.
        weights: path of a file or folder in a published layout or that of our own parameters, or
            `hf://owner/name[/file]`; its head decides the number of classes. With `#PLACE` behind
            it, such as `best.pth#state_dict_ema`, the arrays of that place. None takes the weights
            of an installed package, where there is one.
        class_names: one for each class, two for a head of one logit; None takes those of the
            `config.json` beside the weights, or of the data set the published weights were trained
            on, if they are as many.
        normalization: `"imagenet"`, `"symmetric"` (to [-1, 1]), `"mnist"`, `"none"` or one of your
            own; None takes that of the `config.json` or `preprocessor_config.json` beside the
            weights, or of the published weights.

    Returns:
        A `Classifier` whose parameters are on the default device.

    Raises:
        ValueError: a name is unknown (the known ones are listed), the file holds something else
            than this network, or the class names are not as many as its classes.
        FileNotFoundError: there is no such weights file.

    Example:
        >>> import cfx_jax
        >>> classifier = cfx_jax.load_classifier("efficientnet_lite0")
        >>> classifier.image_size
        (224, 224)
    """
    _check_path(weights)
    if named.is_named(name):
        known = adapters.Known(
            normalization=_normalization(normalization), class_names=class_names or ()
        )
        return _build_classifier(name, weights, known)
    architecture: Architecture = _lookup("classifier", ARCHITECTURES, name)
    path = packaged_weights(name) if weights is None else os.fspath(weights)
    try:
        arrays, opaque, facts = read_weights(path)
        if normalization is not None:
            facts = facts._replace(normalization=_normalization(normalization))
        module, params, published = lay_out(name, arrays, opaque, facts)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if path in message else f"{path}: {message}") from error
    if said := facts.in_words():
        _logger.info("%s: %s", path, said)
    num_classes = classes_of(module.num_classes)
    if class_names is None:
        class_names = _known_class_names(architecture, facts, num_classes)
        if facts.class_names and len(facts.class_names) != num_classes:
            _logger.warning(
                "%s: the names of %d classes beside the weights are put aside, since these have %d",
                path,
                len(facts.class_names),
                num_classes,
            )
    elif len(class_names) != num_classes:
        raise ValueError(
            f"{len(class_names)} class names are given, but {path} has {num_classes} classes"
        )
    return Classifier(
        params=jax.device_put(params),
        apply=NormalizedModule(module, published),
        name=name,
        class_names=tuple(class_names),
        image_size=architecture.sizes(module, facts),
        channels=architecture.channels,
    )


def _check_path(weights: str | os.PathLike[str] | None) -> None:
    if weights is not None and not os.fspath(weights):
        raise ValueError("weights='': give a path, or None for the packaged weights")


def _normalization(given: str | Normalization | None) -> Normalization | None:
    if isinstance(given, str):
        found: Normalization = _lookup("normalization", NORMALIZATIONS, given)
        return found
    return given


def _build_classifier(
    name: str, weights: str | os.PathLike[str] | None, known: adapters.Known
) -> Classifier:
    """Calls a function of the user's own and adapts what it returns."""
    path = None if weights is None else os.fspath(weights)
    model = named.build(name, path)
    try:
        classifier = adapters.as_classifier(model, known, name=name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    images = jnp.zeros((1, *(classifier.image_size or (64, 64)), classifier.channels))
    origin = named.origin(name, path, _constants(classifier.apply, classifier.params, images))
    return dataclasses.replace(classifier, origin=origin)


def _build_generator(name: str, weights: str | os.PathLike[str] | None) -> Generator:
    path = None if weights is None else os.fspath(weights)
    model = named.build(name, path)
    try:
        generator = adapters.as_generator(model, name=name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    shown = jnp.zeros((1, 64, 64, 3)), jnp.ones((1, 64, 64, 1)), jax.random.key(0)
    origin = named.origin(name, path, _constants(generator.apply, generator.params, *shown))
    return dataclasses.replace(generator, origin=origin)


def _constants(apply: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Returns the arrays that a function has closed over, so far as it can be traced."""
    try:
        return list(jax.make_jaxpr(apply)(*arguments).consts)
    except Exception:  # What is wrong with a foreign model is said where it is first called.
        return []


def _known_class_names(
    architecture: Architecture, facts: Facts, num_classes: int
) -> tuple[str, ...]:
    """Those beside the weights, or else of the published classes, where they are as many."""
    published = read_class_names(architecture.class_names)
    return next((n for n in (facts.class_names, published) if len(n) == num_classes), ())


def load_generator(name: str, weights: str | os.PathLike[str] | None = None) -> Generator:
    """Loads an in-filling generator by name.

    Args:
        name: a network, `"gated_unet"`, `"gated_unet_stochastic"`, `"contextual_attention"`,
            `"contextual_attention_pytorch"`, `"vae"` or `"vae_digits"`, or a heuristic, `"grey"`,
            `"local_mean"`, `"blur"` or `"random_color"`; several, such as `"gated_unet+blur"`, fill
            in turn, see `cfx_jax.generators.in_turn`; or a function of your own, as for
            `load_classifier`, see `cfx_jax.adapters.as_generator`.
        weights: path or `hf://owner/name[/file]` of the `weights.safetensors` of a training, or for
            the contextual attention of a checkpoint in the published layout (.safetensors or .pth),
            trained with the original or with its PyTorch port as the name says; None takes the
            packaged ones.

    Returns:
        A `Generator` whose parameters are on the default device.

    Raises:
        ValueError: the name is unknown (the known ones are listed), the network has no packaged
            weights, or the file holds something else than this network.
        FileNotFoundError: there is no such weights file.

    Example:
        >>> import cfx_jax
        >>> cfx_jax.load_generator("local_mean").name
        'local_mean'
    """
    _check_path(weights)
    if named.is_named(name):
        return _build_generator(name, weights)
    if "+" in name:
        if weights is not None:
            raise ValueError(
                f"generator {name!r} names several, and {os.fspath(weights)} holds the weights of "
                "one: load each by itself and give them to cfx_jax.generators.in_turn"
            )
        return in_turn([load_generator(part.strip()) for part in name.split("+")])
    if name in _HEURISTICS:
        if weights is not None:
            raise ValueError(
                f"generator {name!r} has no weights, but {os.fspath(weights)} is given"
            )
        return Generator(params=(), apply=_HEURISTICS[name], name=name)
    network: Network = _lookup("generator", NETWORKS, name, _HEURISTICS)
    template = jax.eval_shape(network.init, jax.random.key(0))
    digest = None
    if weights is None:
        weights, digest = _packaged(name)
    else:
        weights = local_path(weights)
    params = _read_network(name, weights, template, digest)
    return Generator(params=jax.device_put(params), apply=network.apply, name=name)


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
            classifier = _load_configured(config.classifier)
        if generator is None:
            generator = load_generator(config.generator.name, config.generator.weights or None)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    classifier = ask(classifier, config.explain.contrast, None)
    if config.precision == "bfloat16":
        return in_bfloat16(classifier), in_bfloat16(generator)
    return classifier, generator


def _load_configured(config: ClassifierConfig) -> Classifier:
    class_names = _read_class_names(config.class_names) if config.class_names else None
    normalization: str | Normalization | None = config.normalization or None
    if config.mean:
        normalization = Normalization(tuple(config.mean), tuple(config.std))
    size = None if config.image_size is None else (config.image_size, config.image_size)
    if named.is_named(config.name):
        known = adapters.Known(
            size, config.channels, _normalization(normalization), class_names or (), config.logits
        )
        return _build_classifier(config.name, config.weights or None, known)
    classifier = load_classifier(
        config.name,
        config.weights or None,
        class_names=class_names,
        normalization=normalization,
    )
    if config.channels not in (None, classifier.channels):
        raise ConfigError(
            f"classifier.channels: {config.channels}, but images of {config.name} have "
            f"{classifier.channels}; leave it out, it is for classifiers of your own"
        )
    if size is not None:
        classifier = dataclasses.replace(classifier, image_size=size)
    return dataclasses.replace(classifier, logits=config.logits or classifier.logits)


def _read_class_names(path: str) -> list[str]:
    try:
        return class_names_file.read(path)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"classifier.class_names: {path} cannot be read as a text file with one class name a "
            f"line; save it in UTF-8 ({error})"
        ) from error
    except ValueError as error:
        raise ConfigError(f"classifier.class_names: {path}: {error}") from error


def image_shape(
    classifier: Classifier, generator: Generator, settings: Settings
) -> tuple[int, int, int]:
    """Returns the shape that images are brought to, after checking that the models agree on it.

    Args:
        classifier: its image size and channels are those of the images.
        generator: fills images of that shape.
        settings: of the masks, which must not be finer than the images.

    Returns:
        `(H, W, C)`.

    Raises:
        ConfigError: the classifier has no image size, something does not fit together, or a model
            of the user's own raises an error.
    """
    if classifier.image_size is None:
        raise ConfigError(
            f"classifier {classifier.name!r} has no image size to bring images to; give it one, on "
            "the command line --config.classifier.image_size=224"
        )
    shape = (*classifier.image_size, classifier.channels)
    # Two, as many come at once.
    some = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    masks = jax.ShapeDtypeStruct((2, *shape[:2], 1), jnp.float32)
    _try(classifier, some)
    _try(generator, some, masks, jax.eval_shape(lambda: jax.random.key(0)))
    try:
        images = check_problem(classifier, generator, jnp.zeros((1, *shape)), "ssr", settings)
        check_contrast(classifier, images)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return shape


def _try(model: Classifier | Generator, *arguments: jax.ShapeDtypeStruct) -> None:
    """Traces a model of the user's own: what it raises is no fault of this package."""
    if not named.is_named(model.name):
        return
    try:
        jax.eval_shape(model.apply, model.params, *arguments)
    except Exception as error:
        raise ConfigError(
            f"{model.name} raises {named.one_line(error)} for images {arguments[0].shape}"
        ) from error


def identity(model: Classifier | Generator) -> dict[str, str]:
    """Returns what a manifest keeps of a model: its name and the digest of its weights.

    Of a model that a function of the user's own builds, also the digest of that and its weights.
    """
    digest = getattr(model, "host_weights", "") or weights_digest(model.params)
    found = {"name": model.name, "weights_digest": digest}
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


@functools.cache
def read_class_names(file: str) -> tuple[str, ...]:
    """Returns the class names of a packaged file, in the order of the labels.

    ImageNet-1k: WordNet lemmas.
    """
    text = importlib.resources.files("cfx_jax.weights").joinpath(file)
    return tuple(text.read_text(encoding="utf-8").splitlines())


def _packaged(name: str) -> tuple[pathlib.Path, str]:
    """Returns the path of the weights that come with the package, and their SHA-256."""
    if name not in _PACKAGED:
        raise ValueError(
            f"generator {name!r} has no packaged weights: train it with python -m cfx_jax.train, "
            "or give a file (weights=PATH, on the command line --config.generator.weights=PATH)"
        )
    return pathlib.Path(__file__).parent / "weights" / f"{name}.safetensors", _PACKAGED[name]


def _read_network(
    name: str, path: str | os.PathLike[str], template: Any, digest: str | None
) -> dict[str, Any]:
    """Reads a file of ours, or of the published layout where a network has one."""
    if not name.startswith("contextual_attention"):
        return read_params(path, template, digest)
    arrays = read_weights(path).arrays
    # The published names have dots, ours have not.
    if any("." in key for key in arrays):
        return contextual_attention_weights.params_from_arrays(arrays)
    return read_params(path, template)


def _lookup(kind: str, table: Mapping[str, Any], name: str, more: Iterable[str] = ()) -> Any:
    if name not in table:
        known = ", ".join(sorted({*table, *more}))
        raise ValueError(f"unknown {kind} {name!r}; known are {known}")
    return table[name]


_HEURISTICS: dict[str, Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "grey": heuristic.grey,
    "local_mean": heuristic.local_mean,
    "blur": heuristic.blur,
    "random_color": heuristic.random_color,
}

NETWORKS = {
    "gated_unet": Network(gated_unet.init, gated_unet.loss, gated_unet.apply, 3, 224),
    "gated_unet_stochastic": Network(
        functools.partial(gated_unet.init, stochastic=True),
        gated_unet.loss,
        gated_unet.apply,
        3,
        224,
    ),
    "contextual_attention": Network(
        contextual_attention.init, contextual_attention.loss, contextual_attention.apply, 3, 224
    ),
}
NETWORKS |= {
    name: Network(
        functools.partial(vae.init, architecture=architecture),
        functools.partial(vae.loss, architecture=architecture),
        functools.partial(vae.apply, architecture=architecture),
        architecture.channels,
        image_size,
    )
    for name, architecture, image_size in (
        ("vae", vae.PHOTOGRAPHS, 224),
        ("vae_digits", vae.DIGITS, 28),
    )
}
# The same layout of weights, computed as the PyTorch port does; see that module.
NETWORKS["contextual_attention_pytorch"] = NETWORKS["contextual_attention"]._replace(
    apply=functools.partial(contextual_attention.apply, port=True)
)

# SHA-256 of the files in weights/.
_PACKAGED = {
    "gated_unet": "1a03e1a9e6b0792d6d50f90fe37bd0c2dcf268751f5bbfe36750fb9c3b966258",
    "vae_digits": "dfa0397855c35cc03a2d5703c517fe7821a6a2d245f7d7f7eb1e8ef085dadaad",
}
