"""Images in the arrays of an .npz file."""

import pathlib

import numpy as np
from PIL import Image

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import images
from cfx_jax.data.digests import digest_array
from cfx_jax.data.source import UNKNOWN_LABEL, Source, no_boxes

# The arrays of an .npz file: ours, and as MNIST calls them.
_NPZ_NAMES = (("images", "x"), ("labels", "y"), ("ids",))


def open_npz(config: DataConfig) -> Source:
    """Opens the images of an .npz file.

    Args:
        config: the `data` section; `path` and `split` are read.

    Returns:
        A `Source`; its ids are those of the file, or the places in it.

    Raises:
        ConfigError: the file cannot be read, or its arrays are not as they should be.
    """
    pixels, labels, ids = _read_npz(config)
    if pixels.shape[3:] == (1,):
        pixels = pixels[..., 0]
    is_image = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)
    if pixels.dtype != np.uint8 or not is_image or 0 in pixels.shape[1:]:
        expected = "uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]"
        raise _unexpected(config, "images", expected, pixels)
    num_images = len(pixels)
    if labels is None:
        labels = np.full(num_images, UNKNOWN_LABEL)
    if ids is None:
        width = len(str(num_images))
        ids = np.array([str(index).zfill(width) for index in range(num_images)], str)
    is_integer = labels.dtype.kind in "iu" and labels.shape == (num_images,)
    if not is_integer or labels.min(initial=0) < UNKNOWN_LABEL:
        raise _unexpected(config, "labels", f"integers of at least -1, [{num_images}]", labels)
    is_text = ids.dtype.kind == "U" and ids.shape == (num_images,)
    if not is_text or len(set(ids.tolist())) != num_images:
        raise _unexpected(config, "ids", f"text, [{num_images}], each its own", ids)
    return Source(
        name=pathlib.Path(config.path).stem + (f"/{config.split}" if config.split else ""),
        ids=ids.tolist(),
        label=lambda index: int(labels[index]),
        boxes=no_boxes,
        open_image=lambda index: Image.fromarray(pixels[index]),
        digest=lambda index: digest_array(pixels[index]),
    )


def _read_npz(config: DataConfig) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Returns images and, where present, labels and ids, as they are."""
    ending = f"_{config.split}" if config.split else ""
    try:
        # A pickle could execute code. NumPy does not close the files that it fails to read.
        with open(config.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            known = list(archive)
            pixels, labels, ids = (
                next((archive[name + ending] for name in names if name + ending in known), None)
                for names in _NPZ_NAMES
            )
    except Exception as error:  # A damaged archive raises any type.
        raise ConfigError(
            f"data.path: {config.path!r} cannot be read as an .npz file "
            f"({images.first_line(error)}); give one with --config.data.path=FILE"
        ) from error
    if pixels is None:
        raise ConfigError(
            f"{config.path}: expected an array `images{ending}` or `x{ending}`; it has "
            f"{', '.join(known) or 'none'}. data.split=train stands for x_train and y_train"
        )
    return pixels, labels, ids


def _unexpected(config: DataConfig, what: str, expected: str, array: np.ndarray) -> ConfigError:
    return ConfigError(
        f"{config.path}: {what}: expected {expected}; got {array.dtype} {list(array.shape)}"
    )
