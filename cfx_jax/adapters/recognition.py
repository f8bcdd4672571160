"""Adapts a model of any supported library by its type."""

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
from cfx_jax.adapters.nnx import from_nnx
from cfx_jax.adapters.torch import evaluation_mode, from_torch
from cfx_jax.classifiers import Classifier, Normalization
from cfx_jax.generators import Generator, one_line

_logger = logging.getLogger(__name__)
# Values for inference of the usual arguments that switch a Linen module to training.
_INFERENCE = {"train": False, "training": False, "is_training": False, "deterministic": True}
_WITH_PARAMETERS = (("flax.nnx", "Module"), ("keras", "Model"), ("torch", "nn.Module"))
_EXPECTED = (
    "a cfx_jax.Classifier, (flax.linen.Module, variables), a flax.nnx.Module, a Keras model, an "
    "Equinox module, a torch.nn.Module, a function of images, or (function of params and images, "
    "params)"
)


class Known(NamedTuple):
    """Properties of a model that the model itself does not contain; None or empty if unknown.

    Attributes:
        image_size: image size `(H, W)` used in training.
        channels: number of channels C of its images.
        normalization: normalisation used in training.
        class_names: one name per class.
        logits: kind of the logits, see `Classifier.logits`.
        crop: share of the side of the scaled image that the model uses, see `Classifier.crop`.
        interpolation: filter used to scale images in training, see `Classifier.interpolation`.
    """

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    normalization: Normalization | None = None
    class_names: Sequence[str] = ()
    logits: str = ""
    crop: float | None = None
    interpolation: str = ""


def as_classifier(model: Any, known: Known, *, name: str = "") -> Classifier:
    """Adapts a model according to its type, which is logged.

    Args:
        model: a `Classifier`, a pair `(flax.linen.Module, variables)`, a `flax.nnx.Module`, a Keras
            model, an Equinox module or `(module, state)`, a `torch.nn.Module`, a function of images
            `[N, H, W, C]`, or a pair `(function of params and images, params)`.
        known: known properties of the model. The image size of a Keras model is read from it.
        name: name in records and reports; "" = the name of the model or of its class.

    Returns:
        A `Classifier`. If the model is already a `Classifier`, it gets the known properties; it
        includes its normalisation.

    Raises:
        ValueError: the type of the model is not supported, a property is missing, or a
            normalisation is given for a `Classifier`.

    Example:
        >>> def brightness(images):
        ...     return images.mean((1, 2))
        >>> as_classifier(brightness, Known(image_size=(8, 8))).name
        'brightness'
    """
    kind, adapted = _adapt(model, known, name)
    fields: dict[str, Any] = {"name": name or adapted.name}
    given = known._replace(class_names=tuple(known.class_names), normalization=None)._asdict()
    fields |= {field: value for field, value in given.items() if value not in (None, "", ())}
    _logger.info("%s is adapted as %s", fields["name"], kind)
    return dataclasses.replace(adapted, **fields)


def as_generator(model: Any, *, name: str = "") -> Generator:
    """Adapts a model that fills holes according to its type, which is logged.

    Args:
        model: a `Generator`, a function of images `[N, H, W, C]`, masks `[N, H, W, 1]` (1 = keep)
            and a key, a pair `(function of params and these three, params)`, or a pair
            `(flax.linen.Module of these three, variables)`.
        name: name in records and reports; "" = the name of the model or of its class.

    Returns:
        A `Generator`.

    Raises:
        ValueError: the type of the model is not supported.

    Example:
        >>> import jax.numpy as jnp
        >>> def black(images, masks, key):
        ...     return jnp.zeros_like(images)
        >>> as_generator(black).name
        'black'
    """
    kind, adapted = _adapt_generator(model)
    _logger.info("%s is adapted as %s", name or adapted.name, kind)
    return dataclasses.replace(adapted, name=name or adapted.name)


def _adapt_generator(model: Any) -> tuple[str, Generator]:
    if isinstance(model, Generator):
        return "a Generator", model
    if isinstance(model, tuple) and len(model) == 2:
        function, params = model
        if isinstance(function, nn.Module):
            _check_arrays(params)
            fill: Any = function.apply
            name = type(function).__name__
            return "a Flax Linen module", Generator(params, fill, name)
        if callable(function):
            _check_arrays(params)
            name = getattr(function, "__name__", "custom")
            return "a function of params, images, masks and key", Generator(params, function, name)
    elif callable(model) and not isinstance(model, nn.Module):

        def apply_without_params(_: Any, *arguments: jax.Array) -> jax.Array:
            filled: jax.Array = model(*arguments)
            return filled

        name = getattr(model, "__name__", "custom")
        return "a function of images, masks and key", Generator((), apply_without_params, name)
    raise ValueError(
        f"a {type(model).__name__} is not a supported generator; expected a cfx_jax.Generator, a "
        "function of images, masks and key, (function, params) or (flax.linen.Module, variables)"
    )


def _adapt(model: Any, known: Known, name: str) -> tuple[str, Classifier]:
    options: dict[str, Any] = {"name": name, "normalization": known.normalization}
    if isinstance(model, Classifier):
        if known.normalization is not None:
            raise ValueError(
                f"{name or model.name} is a Classifier, which includes its normalisation; "
                "leave mean, std, channel_order and normalization out, or return the model alone"
            )
        return "a Classifier", model
    if _is_a(model, "flax.nnx", "Module"):
        return "a Flax NNX module", from_nnx(model, **options)
    if _is_a(model, "keras", "Model"):
        return "a Keras model", _adapt_keras(model, options)
    if _is_a(model, "equinox", "Module"):
        return "an Equinox module, channels first", from_equinox(model, **options)
    if _is_a(model, "torch", "nn.Module"):
        return "a PyTorch module on the host, channels first", _adapt_torch(model, known, options)
    if _is_a(model, "torch", "export.ExportedProgram"):
        raise ValueError("an ExportedProgram cannot be called; expected program.module()")
    if isinstance(model, tuple) and len(model) == 2:
        return _adapt_pair(*model, options)
    if isinstance(model, nn.Module):
        raise ValueError(
            f"{type(model).__name__} is a Flax Linen module without its variables; expected "
            "(module, variables)"
        )
    if callable(model):
        options["name"] = name or getattr(model, "__name__", "custom")
        return "a function of images", from_function(model, **options)
    raise ValueError(f"a {type(model).__name__} is not a supported model; expected {_EXPECTED}")


def _adapt_pair(model: Any, rest: Any, options: Mapping[str, Any]) -> tuple[str, Classifier]:
    if isinstance(model, nn.Module):
        takes = inspect.signature(type(model).__call__).parameters
        mode: dict[str, Any] = {key: value for key, value in _INFERENCE.items() if key in takes}
        arguments = "".join(f", {key}={value}" for key, value in mode.items())
        return f"a Flax Linen module{arguments}", from_linen(model, rest, **options, **mode)
    if _is_a(model, "equinox", "Module"):
        kind = "an Equinox module with its state, channels first"
        return kind, from_equinox(model, rest, **options)
    if any(_is_a(model, *kind) for kind in _WITH_PARAMETERS):
        raise ValueError(
            f"a pair ({type(model).__name__}, {type(rest).__name__}); expected the model alone, "
            "which contains its parameters: load other ones into it"
        )
    if callable(model):
        _check_arrays(rest)
        named = dict(options) | {"name": options["name"] or getattr(model, "__name__", "custom")}
        return "a function of params and images", from_function(model, rest, **named)
    raise ValueError(
        f"a pair ({type(model).__name__}, {type(rest).__name__}) is not a supported model; "
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
            f"{options['name'] or type(module).__name__} is a PyTorch module, which has no image "
            "size; set it with --config.classifier.image_size=224"
        )
    evaluation_mode(module)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    shape = (1, known.channels or 3, *known.image_size)
    try:
        with torch.inference_mode(False), torch.no_grad():
            output = module(torch.zeros(shape, device=device))
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} raises {one_line(error)} for images {shape}"
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(
            f"{type(module).__name__} returns {what} for one image; expected a tensor of logits "
            "[1, num_classes]"
        )
    return from_torch(module, output.shape[1], **options)


def _check_arrays(params: Any) -> None:
    try:
        leaves = jax.tree.leaves_with_path(params)
    except ValueError as error:
        raise ValueError(f"params is not a tree of arrays ({one_line(error)})") from error
    for path, leaf in leaves:
        name = f"params{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, (jax.Array, np.ndarray, float, int)):
            raise ValueError(f"{name} is a {type(leaf).__name__}; expected arrays")
        # Kinds that are not numbers: objects, strings, times, records. bfloat16 also has kind V.
        if isinstance(leaf, np.ndarray) and (leaf.dtype.kind in "OSUMmT" or leaf.dtype.names):
            raise ValueError(f"{name} is an array of {leaf.dtype}; expected numbers")


def _is_a(model: Any, library: str, kind: str) -> bool:
    """Returns whether a model is an instance of a class of a library, without importing it."""
    value: Any = sys.modules.get(library)
    for part in kind.split("."):
        value = getattr(value, part, None)
    return isinstance(value, type) and isinstance(model, value)
