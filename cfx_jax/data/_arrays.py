"""Images in the arrays of an .npz file."""

import logging
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import images
from cfx_jax.data.digests import digest_array
from cfx_jax.data.labels import Classes
from cfx_jax.data.source import UNKNOWN_LABEL, Source, no_boxes
from cfx_jax.weights import recognise

_logger = logging.getLogger(__name__)
# Accepted names of the arrays in an .npz file: our own, and those of the MNIST file.
_NPZ_NAMES = (("images", "x"), ("labels", "y"), ("ids",))
_EXPECTED = "uint8, or floats in [0, 1], of [N, H, W], [N, H, W, 1] or [N, H, W, 3]"
_CHANNELS = (1, 3)
_NUM_SHOWN = 5


def open_npz(config: DataConfig, classes: Classes) -> Source:
    """Opens the images of an .npz file.

    Args:
        config: the `data` section; `path` and `split` are read.
        classes: classes that the labels refer to.

    Returns:
        A `Source`; its ids come from the file, or else are the positions of the images in it.

    Raises:
        ConfigError: the file cannot be read, or an array has an unexpected shape, type or range.
    """
    pixels, labels, ids, unused = _read_npz(config)
    # Three grey images have the shape of one RGB image; the number of labels or ids decides.
    is_counted = labels is not None or ids is not None
    is_single = pixels.ndim == 3 and pixels.shape[0] == 3 and min(pixels.shape[1:]) > 4
    if is_single and not is_counted:
        hint = (
            "this is channels first, one image: save np.moveaxis(images, 0, 2)[None]; three grey "
            "images: save images[..., None]"
        )
        raise _unexpected(config, "images", _EXPECTED, pixels, hint)
    pixels = _check_pixels(config, pixels)
    num_images = len(pixels)
    if labels is None:
        labels = np.full(num_images, UNKNOWN_LABEL)
    if ids is None:
        width = len(str(num_images))
        ids = np.array([str(index).zfill(width) for index in range(num_images)], str)
    is_integer = labels.dtype.kind in "iu" and labels.shape == (num_images,)
    if not is_integer or labels.min(initial=0) < UNKNOWN_LABEL:
        raise _unexpected(config, "labels", f"integers of at least -1, [{num_images}]", labels)
    expected = f"unique texts, [{num_images}]"
    is_text = ids.dtype.kind == "U" and ids.shape == (num_images,)
    if not is_text or len(set(ids.tolist())) != num_images:
        raise _unexpected(config, "ids", expected, ids, _name_repeated(ids))
    classes.check_numbers(labels.tolist(), config.path)
    size = " x ".join(map(str, pixels.shape[1:3]))
    _logger.info(
        "%d %s images of %s pixels in %s, %d of them with a label%s",
        num_images,
        "RGB" if pixels.ndim == 4 else "grey",
        size,
        config.path,
        (labels != UNKNOWN_LABEL).sum(),
        f"; arrays not used: {_name_some(unused)}" if unused else "",
    )
    return Source(
        name=pathlib.Path(config.path).stem + (f"/{config.split}" if config.split else ""),
        ids=ids.tolist(),
        label=lambda index: int(labels[index]),
        boxes=no_boxes,
        open_image=lambda index: Image.fromarray(_to_8_bits(pixels[index])),
        digest=lambda index: digest_array(_to_8_bits(pixels[index])),
    )


def _check_pixels(config: DataConfig, pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 or floats in [0, 1], `[N, H, W]` or `[N, H, W, 3]`."""
    shape = pixels.shape
    if pixels.ndim == 4 and shape[3] not in _CHANNELS and shape[1] in _CHANNELS:
        hint = "this is channels first: save np.moveaxis(images, 1, 3)"
        raise _unexpected(config, "images", _EXPECTED, pixels, hint)
    if pixels.ndim == 3 and shape[2] in _CHANNELS:
        hint = "one image is images[None]"
        raise _unexpected(config, "images", _EXPECTED, pixels, hint)
    if shape[3:] == (1,):
        pixels = pixels[..., 0]
    is_image = pixels.ndim == 3 or (pixels.ndim == 4 and shape[3] == 3)
    if pixels.dtype.kind not in "uf" or not is_image or 0 in shape[1:]:
        raise _unexpected(config, "images", _EXPECTED, pixels)
    if not len(pixels):
        raise _unexpected(config, "images", _EXPECTED, pixels, "it contains no image")
    low, high = pixels.min(), pixels.max()
    if pixels.dtype == np.uint8:
        if high == 1:
            hint = "values 0 and 1 of uint8 are nearly black: multiply by 255"
            raise _unexpected(config, "images", _EXPECTED, pixels, hint)
        return pixels
    # NaN fails this comparison, too.
    if pixels.dtype.kind == "u" or not (low >= 0 and high <= 1):
        hint = f"values are {low:.4g} to {high:.4g}"
        raise _unexpected(config, "images", _EXPECTED, pixels, hint)
    _logger.info("%s: floats in [0, 1] are rounded to 8 bits", config.path)
    return pixels


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)


def _read_npz(
    config: DataConfig,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, list[str]]:
    """Returns images, labels and ids unchanged (None if absent), and names of unused arrays."""
    ending = f"_{config.split}" if config.split else ""
    if (found := recognise(config.path)) and found.name != "an .npz file":
        remedy = found.for_arrays or found.for_weights
        raise ConfigError(
            f"data.path: {config.path!r} is not an .npz file, but {found.name}: {remedy}"
        )
    try:
        # A pickle could execute code. NumPy does not close the files that it fails to read.
        with open(config.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            known = list(archive)
            named = [[n + ending for n in names if n + ending in known] for names in _NPZ_NAMES]
            pixels, labels, ids = (archive[names[0]] if names else None for names in named)
    except Exception as error:  # A damaged archive raises any type.
        raise ConfigError(
            f"data.path: {config.path!r} cannot be read as an .npz file "
            f"({images.first_line(error)}); give one with --config.data.path=FILE"
        ) from error
    if pixels is None:
        raise ConfigError(
            f"{config.path}: expected an array `images{ending}` or `x{ending}`; it has "
            f"{', '.join(known) or 'none'}. data.split=train reads x_train and y_train"
        )
    for names in named:
        if len(names) > 1:
            both = f"`{names[0]}` and `{names[1]}`"
            raise ConfigError(f"{config.path}: expected one of {both}, got both: remove one")
    unused = [name for name in known if [name] not in named]
    for what, names, is_alike in (("labels", named[1], _may_be_labels), ("ids", named[2], _is_ids)):
        alike = [n for n in unused if is_alike(n) and not _is_of_other_images(n, known, ending)]
        if alike and not names:
            raise ConfigError(
                f"{config.path}: array `{alike[0]}` is not read; did you mean `{what}{ending}`? "
                "Rename or remove it"
            )
    return pixels, labels, ids, unused


def _may_be_labels(name: str) -> bool:
    words = re.findall("[^\\W_]+", name.casefold())
    # An array with one of these words in its name describes the classes, not the images.
    if any(re.match("name|weight", word) for word in words):
        return False
    return words[:1] == ["y"] or any(
        re.match("label|target|class|truth|groundtruth", word) for word in words
    )


def _is_ids(name: str) -> bool:
    return re.match("ids?(_|$)", name.casefold()) is not None


def _is_of_other_images(name: str, known: Sequence[str], ending: str) -> bool:
    """Returns whether an array belongs to the images of another split, such as `y_train`."""
    kinds = [kind for names in _NPZ_NAMES[1:] for kind in names if name.startswith(kind)]
    endings = {name.removeprefix(kind) for kind in kinds} - {ending}
    return any(image + other in known for image in _NPZ_NAMES[0] for other in endings)


def _name_repeated(ids: np.ndarray) -> str:
    values, counts = np.unique(ids, return_counts=True)
    repeated = values[counts > 1].astype(str).tolist()
    return f"repeated: {_name_some(repeated)}" if repeated else ""


def _name_some(names: Sequence[str]) -> str:
    more = f", and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(names[:_NUM_SHOWN]) + more


def _unexpected(
    config: DataConfig, what: str, expected: str, array: np.ndarray, hint: str = ""
) -> ConfigError:
    more = f"; {hint}" if hint else ""
    return ConfigError(
        f"{config.path}: {what}: expected {expected}; got {array.dtype} {list(array.shape)}{more}"
    )
