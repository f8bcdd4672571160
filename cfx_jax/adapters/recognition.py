"""A model of whatever library as a `Classifier` or a `Generator`: adapted by what it is."""

import dataclasses
import inspect
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cfx_jax.adapters.equinox import from_equinox
from cfx_jax.adapters.function import from_function
from cfx_jax.adapters.keras import from_keras
from cfx_jax.adapters.linen import from_linen
from cfx_jax.adapters.named import one_line
from cfx_jax.adapters.nnx import from_nnx
from cfx_jax.adapters.torch import from_torch
from cfx_jax.classifiers import Classifier, Normalization
from cfx_jax.generators import Generator

_logger = logging.getLogger(__name__)
# Of the arguments of a Linen module that say whether it is being trained.
_INFERENCE = {"train": False, "training": False, "is_training": False, "deterministic": True}
_EXPECTED = (
    "a cfx_jax.Classifier, (flax.linen.Module, variables), a flax.nnx.Module, a Keras model, an "
    "Equinox module, a torch.nn.Module, a function of images, or (function of params and images, "
    "params)"
)


class Known(NamedTuple):
    """What is known of a model beside itself; None and `()` where nothing is.

    Attributes:
        image_size: the `(H, W)` it was trained for.
        channels: C of its images.
        normalization: what it was trained to see.
        class_names: one for each class.
        logits: what they are, see `Classifier.logits`.
        crop, interpolation: how its images were brought to that size.
    """

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    normalization: Normalization | None = None
    class_names: Sequence[str] = ()
    logits: str = ""
    crop: float | None = None
    interpolation: str = ""


def as_classifier(model: Any, known: Known, *, name: str = "") -> Classifier:
    """Adapts a model by what it is; one line of the log says how.

    Args:
        model: a `Classifier`, a pair `(flax.linen.Module, variables)`, a `flax.nnx.Module`, a Keras
            model, an Equinox module or `(module, state)`, a `torch.nn.Module`, a function of images
            `[N, H, W, C]`, or a pair `(function of params and images, params)`.
        known: what is known beside it. A Keras model knows the size of its images by itself.
        name: shown in records and reports; that of the model or of its class if empty.

    Returns:
        A `Classifier`. A given one is changed in the facts that are known, and normalises by
        itself.

    Raises:
        ValueError: the model is of no kind that is known, a fact is missing, or it says twice how
            images are normalised.

    Example:
        >>> def brightness(images):
        ...     return images.mean((1, 2))
        >>> as_classifier(brightness, Known(image_size=(8, 8))).name
        'brightness'
    """
    how, adapted = _adapt(model, known, name)
    fields: dict[str, Any] = {"name": name or adapted.name}
    said = known._replace(class_names=tuple(known.class_names), normalization=None)._asdict()
    fields |= {field: value for field, value in said.items() if value not in (None, "", ())}
    _logger.info("%s is taken as %s", fields["name"], how)
    return dataclasses.replace(adapted, **fields)


def as_generator(model: Any, *, name: str = "") -> Generator:
    """Adapts a model that fills holes by what it is; one line of the log says how.

    Args:
        model: a `Generator`, a function of images `[N, H, W, C]`, masks `[N, H, W, 1]` (1 = keep)
            and a key, a pair `(function of params and these three, params)`, or a pair
            `(flax.linen.Module of these three, variables)`.
        name: shown in records and reports; that of the model or of its class if empty.

    Returns:
        A `Generator`.

    Raises:
        ValueError: the model is of no kind that is known.

    Example:
        >>> import jax.numpy as jnp
        >>> def black(images, masks, key):
        ...     return jnp.zeros_like(images)
        >>> as_generator(black).name
        'black'
    """
    how, adapted = _adapt_generator(model)
    _logger.info("%s is taken as %s", name or adapted.name, how)
    return dataclasses.replace(adapted, name=name or adapted.name)


def _adapt_generator(model: Any) -> tuple[str, Generator]:
    if isinstance(model, Generator):
        return "a Generator", model
    if isinstance(model, tuple) and len(model) == 2:
        function, params = model
        if isinstance(function, nn.Module):
            _check_arrays(params)
            fill: Any = function.apply
            own = type(function).__name__
            return "a module of Flax Linen", Generator(params, fill, own)
        if callable(function):
            _check_arrays(params)
            own = getattr(function, "__name__", "custom")
            return "a function of params, images, masks and key", Generator(params, function, own)
    elif callable(model) and not isinstance(model, nn.Module):

        def ignoring_params(_: Any, *arguments: jax.Array) -> jax.Array:
            filled: jax.Array = model(*arguments)
            return filled

        own = getattr(model, "__name__", "custom")
        return "a function of images, masks and key", Generator((), ignoring_params, own)
    raise ValueError(
        f"a {type(model).__name__} is no model that fills holes; expected a cfx_jax.Generator, a "
        "function of images, masks and key, (function, params) or (flax.linen.Module, variables)"
    )


def _adapt(model: Any, known: Known, name: str) -> tuple[str, Classifier]:
    options: dict[str, Any] = {"name": name, "normalization": known.normalization}
    if isinstance(model, Classifier):
        if known.normalization is not None:
            raise ValueError(
                f"{name or model.name} is a Classifier, which normalises its images by itself; "
                "leave mean, std, channel_order and normalization out, or return the model alone"
            )
        return "a Classifier", model
    if _is_a(model, "flax.nnx", "Module"):
        return "a module of Flax NNX", from_nnx(model, **options)
    if _is_a(model, "keras", "Model"):
        return "a Keras model", _adapt_keras(model, options)
    if _is_a(model, "equinox", "Module"):
        return "an Equinox module, channels first", from_equinox(model, **options)
    if _is_a(model, "torch", "nn.Module"):
        return "a PyTorch module on the host, channels first", _adapt_torch(model, known, options)
    if isinstance(model, tuple) and len(model) == 2:
        return _adapt_pair(*model, options)
    if isinstance(model, nn.Module):
        raise ValueError(
            f"{type(model).__name__} is a module of Flax Linen without its variables; expected "
            "(module, variables)"
        )
    if callable(model):
        options["name"] = name or getattr(model, "__name__", "custom")
        return "a function of images", from_function(model, **options)
    raise ValueError(f"a {type(model).__name__} is no model that is known; expected {_EXPECTED}")


def _adapt_pair(model: Any, rest: Any, options: Mapping[str, Any]) -> tuple[str, Classifier]:
    if isinstance(model, nn.Module):
        takes = inspect.signature(type(model).__call__).parameters
        mode: dict[str, Any] = {key: value for key, value in _INFERENCE.items() if key in takes}
        said = "".join(f", {key}={value}" for key, value in mode.items())
        return f"a module of Flax Linen{said}", from_linen(model, rest, **options, **mode)
    if _is_a(model, "equinox", "Module"):
        how = "an Equinox module with its state, channels first"
        return how, from_equinox(model, rest, **options)
    if callable(model):
        _check_arrays(rest)
        named = dict(options) | {"name": options["name"] or getattr(model, "__name__", "custom")}
        return "a function of params and images", from_function(model, rest, **named)
    raise ValueError(
        f"a pair ({type(model).__name__}, {type(rest).__name__}) is no model that is known; "
        f"expected {_EXPECTED}"
    )


def _adapt_keras(model: Any, options: Mapping[str, Any]) -> Classifier:
    adapted = from_keras(model, **options)
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        return adapted
    return dataclasses.replace(adapted, image_size=tuple(shape[1:3]), channels=shape[3])


def _adapt_torch(module: Any, known: Known, options: Mapping[str, Any]) -> Classifier:
    import torch

    if known.image_size is None:
        raise ValueError(
            f"{options['name'] or type(module).__name__} is a PyTorch module, which does not tell "
            "the size of its images; give one with --config.classifier.image_size=224"
        )
    module.eval()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    shape = (1, known.channels or 3, *known.image_size)
    try:
        with torch.no_grad():
            seen = module(torch.zeros(shape, device=device))
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} raises {one_line(error)} for images {shape}"
        ) from error
    if not isinstance(seen, torch.Tensor) or seen.ndim != 2:
        what = tuple(seen.shape) if isinstance(seen, torch.Tensor) else type(seen).__name__
        raise ValueError(
            f"{type(module).__name__} returns {what} for one image; expected a tensor of logits "
            "[1, num_classes]"
        )
    return from_torch(module, seen.shape[1], **options)


def _check_arrays(params: Any) -> None:
    try:
        leaves = jax.tree.leaves_with_path(params)
    except ValueError as error:
        raise ValueError(f"params are no tree of arrays ({one_line(error)})") from error
    for path, leaf in leaves:
        place = f"params{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, (jax.Array, np.ndarray, float, int)):
            raise ValueError(f"{place} is a {type(leaf).__name__}; expected arrays")
        # What has bits and no number: objects, texts, times, records. (bfloat16 is of kind V, too.)
        if isinstance(leaf, np.ndarray) and (leaf.dtype.kind in "OSUMmT" or leaf.dtype.names):
            raise ValueError(f"{place} is an array of {leaf.dtype}; expected numbers")


def _is_a(model: Any, library: str, kind: str) -> bool:
    """Whether a model is of a class of a library; one that is not imported made no model."""
    found: Any = sys.modules.get(library)
    for part in kind.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and isinstance(model, found)
