"""Reads `config.json` and `preprocessor_config.json`, the files next to weights on the hub.

They contain the architecture of the network, the preprocessing of its images and its classes. timm
and transformers write them in two formats; any other `config.json` is ignored.
"""

import json
import logging
import math
import pathlib
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from cfx_jax.classifiers import INTERPOLATIONS, Normalization

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_RESAMPLING = (
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)  # By their numbers in Pillow.
# Arguments of networks that timm may store outside of `model_args`.
_ARGUMENTS = ("global_pool", "in_chans", "output_stride", "act_layer")
_TRANSFORMERS_KEYS = ("hidden_act", "layer_norm_eps", "num_attention_heads")
# Every `config.json` of a network contains one of these keys or `architecture`.
_KEYS = ("model_type", "pretrained_cfg", "input_size", "label_names", "id2label")
_logger = logging.getLogger(__name__)


class Preprocessing(NamedTuple):
    """Known properties of weights; a field is empty or None if unknown.

    Attributes:
        architecture: name of the network in timm.
        normalization: normalisation of images in [0, 1].
        image_size: image size `(H, W)` that the network was trained with.
        class_names: one name per class.
        crop: share of the side of the resized image that remains after the central crop.
        interpolation: filter used for resizing, such as `bicubic`.
        arguments: arguments that timm built the network with, by name.
    """

    architecture: str = ""
    normalization: Normalization | None = None
    image_size: tuple[int, int] | None = None
    class_names: tuple[str, ...] = ()
    crop: float | None = None
    interpolation: str = ""
    arguments: Mapping[str, Any] = types.MappingProxyType({})

    def describe(self) -> str:
        """Returns the known properties as text, or ""."""
        parts = [f"network {self.architecture}"] if self.architecture else []
        if self.image_size:
            parts.append(f"images of {self.image_size[0]} x {self.image_size[1]}")
        if self.normalization:
            parts.append(f"mean {self.normalization.mean}, std {self.normalization.std}")
        parts += [f"crop {self.crop}"] if self.crop else []
        parts += [f"{self.interpolation} resizing"] if self.interpolation else []
        return "; ".join(parts)


def read_preprocessing(folder: pathlib.Path) -> Preprocessing:
    """Reads the two config files in a folder, if they exist.

    A value that is invalid or not supported is ignored with a warning.
    """
    config, preprocessor = (_read_json(folder / name) for name in (CONFIG, PREPROCESSOR))
    # timm nests the properties of images; older versions did not.
    nested = config.get("pretrained_cfg")
    timm = config | (nested if isinstance(nested, dict) else {})
    architecture = config.get("architecture")
    interpolation = timm.get("interpolation")
    resample: Any = preprocessor.get("resample")
    if type(resample) is int and 0 <= resample < len(_RESAMPLING):
        interpolation = _RESAMPLING[resample]
    elif resample is not None:
        interpolation = resample
    is_of_images = isinstance(architecture, str) or bool(preprocessor)
    if not is_of_images and not any(key in config for key in _KEYS):
        return Preprocessing()  # A config of another kind.
    if is_of_images and interpolation not in (None, *INTERPOLATIONS):
        _warn_ignored("interpolation", repr(interpolation))
    if timm.get("crop_mode") not in (None, "center"):
        _warn_ignored("crop_mode", f"{timm['crop_mode']!r} (for 'squash', set data.resize=stretch)")
    if config.get("problem_type") == "multi_label_classification":
        _logger.warning(
            "the config next to the weights names several labels per image, which are scored "
            "independently: set classifier.logits=sigmoid"
        )
    if preprocessor.get("do_flip_channel_order"):
        _logger.warning(
            "ignoring do_flip_channel_order in the config next to the weights; the network takes "
            "blue first: set classifier.channel_order=bgr"
        )
    return Preprocessing(
        architecture if isinstance(architecture, str) else "",
        _normalization(timm, preprocessor),
        _image_size(timm, preprocessor),
        _class_names(timm),
        _crop(timm, preprocessor, is_of_images),
        interpolation if interpolation in INTERPOLATIONS else "",
        _arguments(timm) if isinstance(architecture, str) else _transformers(config),
    )


def _warn_ignored(field: str, value: Any) -> None:
    _logger.warning("ignoring %s %s in the config next to the weights", field, value)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _logger.warning("%s is not read: %s", path, error)
        return {}
    return content if isinstance(content, dict) else {}


def _normalization(
    timm: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> Normalization | None:
    if "image_mean" in preprocessor and "image_std" in preprocessor:
        mean, std = preprocessor["image_mean"], preprocessor["image_std"]
    elif "mean" in timm and "std" in timm:
        mean, std = timm["mean"], timm["std"]
    else:
        return None
    if preprocessor.get("do_normalize") is False:
        mean, std = [0.0], [1.0]
    mean, std = ([value] if _is_number(value) else value for value in (mean, std))
    is_known = all(isinstance(v, list) and v and all(map(_is_number, v)) for v in (mean, std))
    if not is_known or len(mean) != len(std) or min(std) <= 0:
        _warn_ignored("mean and std", f"{mean} and {std}")
        return None
    # Images are in [0, 1] here, but in [0, 255] in transformers before rescaling.
    factor: Any = preprocessor.get("rescale_factor", 1 / 255)
    if preprocessor.get("do_rescale") is False:
        factor = 1.0
    if not _is_number(factor) or factor <= 0:
        _warn_ignored("rescale_factor", repr(factor))
        return None
    scale = factor * 255.0
    if math.isclose(scale, 1.0, rel_tol=1e-5):
        scale = 1.0
    mean, std = (tuple(value / scale for value in values) for values in (mean, std))
    if max(mean) > 1:  # A mean of images in [0, 255].
        _warn_ignored("mean and std", f"{mean} and {std}, of other images than in [0, 1],")
        return None
    return Normalization(mean, std)


def _image_size(timm: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> tuple[int, int] | None:
    input_size = timm.get("input_size")
    candidates = [
        preprocessor.get("crop_size") if preprocessor.get("do_center_crop", True) else None,
        preprocessor.get("size"),
        input_size[1:] if isinstance(input_size, list) else None,
        timm.get("image_size"),
    ]
    size: Any
    for size in candidates:
        if isinstance(size, dict):
            size = [size.get("height"), size.get("width")]
        sides = size if isinstance(size, list) else [size, size]
        if len(sides) == 2 and all(type(side) is int and side > 0 for side in sides):
            return sides[0], sides[1]
    return None


def _crop(
    timm: Mapping[str, Any], preprocessor: Mapping[str, Any], is_of_images: bool
) -> float | None:
    share: Any = preprocessor.get("crop_pct", timm.get("crop_pct"))
    if share is None and preprocessor.get("do_center_crop"):
        # transformers scales the shorter side to `size` and crops to `crop_size`.
        scaled: Any = preprocessor.get("size")
        cut: Any = preprocessor.get("crop_size")
        if isinstance(scaled, dict):
            scaled = scaled.get("shortest_edge")
        if isinstance(cut, dict):
            cut = cut.get("height")
        if _is_number(scaled) and _is_number(cut) and scaled > 0:
            share = cut / scaled
    if _is_number(share) and 0 < share <= 1:
        return float(share)
    if share is not None and is_of_images:
        _warn_ignored("crop", repr(share))
    return None


def _arguments(timm: Mapping[str, Any]) -> dict[str, Any]:
    input_size, given = timm.get("input_size"), timm.get("model_args")
    arguments = {}
    if isinstance(input_size, list) and len(input_size) == 3:
        arguments["in_chans"] = input_size[0]
    arguments |= {name: timm[name] for name in _ARGUMENTS if name in timm}
    arguments |= given if isinstance(given, dict) else {}
    # In timm, None means the default.
    return {name: value for name, value in arguments.items() if value is not None}


def _transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments in a config of transformers that do not follow from the arrays."""
    if not isinstance(config.get("model_type"), str):
        return {}
    return {name: config[name] for name in _TRANSFORMERS_KEYS if config.get(name) is not None}


def _class_names(timm: Mapping[str, Any]) -> tuple[str, ...]:
    names, descriptions = timm.get("label_names"), timm.get("label_descriptions")
    if not isinstance(names, list):
        by_number = timm.get("id2label")
        if not isinstance(by_number, dict):
            return ()
        names = [by_number.get(str(number)) for number in range(len(by_number))]
        if names == [f"LABEL_{number}" for number in range(len(names))]:
            return ()  # The default names of transformers.
    if not all(isinstance(name, str) for name in names):
        _logger.warning("ignoring the class names in the config next to the weights: not all text")
        return ()
    described = descriptions if isinstance(descriptions, dict) else {}
    return tuple(str(described.get(name, name)) for name in names)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
