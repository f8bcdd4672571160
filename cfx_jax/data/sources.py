"""Opens example sources: bundled photographs, an image folder, arrays in an .npz file, TFDS.

Example ids are unique texts that belong to the data (a file name, a record of a TFDS split); they
do not depend on the position in a batch or a run.
"""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable

from cfx_jax.classifiers import Classifier
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import images
from cfx_jax.data._allowed import add_allowed
from cfx_jax.data._arrays import open_npz
from cfx_jax.data._folder import find_folder, open_folder
from cfx_jax.data.bit_depth import largest_of_16_bits
from cfx_jax.data.digests import digest, digest_file
from cfx_jax.data.labels import Classes
from cfx_jax.data.listing import readable_suffixes
from cfx_jax.data.source import Source, no_boxes
from cfx_jax.records import find_id_problem

_logger = logging.getLogger(__name__)
# The square to cut out of each picture, x0 y0 x1 y1, and its ImageNet class. ImageNet has no class
# of motorcycles; moped is the closest. The traffic light is drawn, the others are photographs of
# scikit-image.
_BUNDLED = {
    "coffee.png": ((100, 0, 500, 400), 967),
    "motorcycle_left.png": ((400, 160, 690, 450), 665),
    "traffic_light.png": ((0, 0, 256, 256), 920),
}
# Number of images measured for the warning about dark images, and the largest dark value.
_NUM_MEASURED = 8
_DARK = 2**14 - 1


def check_there(config: DataConfig) -> None:
    """Checks that the data exist, before models are loaded.

    Args:
        config: the `data` section.

    Raises:
        ConfigError: the folder or the TFDS dataset does not exist.
    """
    if config.source == "folder":
        find_folder(config)
    elif config.source == "tfds":
        from cfx_jax.data._tfds import find_split

        find_split(config)


def open_source(config: DataConfig, classifier: Classifier | None = None) -> Source:
    """Opens the examples that a config describes.

    Args:
        config: the `data` section.
        classifier: classifier whose classes the labels refer to. Class names are mapped to its
            classes, and other labels are rejected; None accepts any number.

    Returns:
        A `Source` with at least one example.

    Raises:
        ConfigError: the data are missing; the message explains how to get them.
    """
    source = _OPENERS[config.source](config, Classes.of(classifier))
    source = dataclasses.replace(source, white=config.white)
    if config.max_examples is not None and config.max_examples < len(source):
        _logger.info("data.max_examples: the first %d of %d", config.max_examples, len(source))
        source = dataclasses.replace(source, ids=source.ids[: config.max_examples])
    if not len(source):
        raise ConfigError(
            f"data: {source.name!r} contains no image; a folder needs files that end in "
            f"{', '.join(sorted(readable_suffixes()))} or a manifest.csv that lists some"
        )
    for index, name in enumerate(source.ids):
        if problem := find_id_problem(name):
            raise ConfigError(
                f"data: example {index} of {source.name!r} {problem}; expected a unique text"
            )
    if config.source == "folder" and config.white is None:
        _warn_if_dark(source)
    return add_allowed(source, config.allowed) if config.allowed else source


def _warn_if_dark(source: Source) -> None:
    """Warns if a sample of 16-bit images uses at most a quarter of the values.

    Cameras store 10 to 14 bits in 16: the largest value of the depth is then not white.
    """
    largest, is_colour = 0, False
    for index in range(0, len(source), -(-len(source) // _NUM_MEASURED)):
        with (
            contextlib.suppress(images.UnreadableImageError),
            images.reading(source.ids[index]),
            source.open_image(index) as image,
        ):
            value = largest_of_16_bits(image)
            largest = max(largest, value)
            is_colour |= value > 0 and len(image.getbands()) > 1
    if 0 < largest <= _DARK:
        white = 2 ** largest.bit_length() - 1
        remedy = (
            "scale them up to 65535"
            if is_colour
            else f"if white is {white}: --config.data.white={white}"
        )
        _logger.warning(
            "%s: images of 16 bits are nearly black, the brightest value seen is %d of 65535; %s",
            source.name,
            largest,
            remedy,
        )


def resize_for(config: DataConfig, classifier: Classifier) -> images.Resize:
    """Returns the options with which a run resizes images to the size of its classifier.

    Args:
        config: the `data` section; its `resize` is the rule.
        classifier: classifier, which defines the crop and the interpolation.
    """
    return images.Resize(config.resize, classifier.crop, classifier.interpolation)


def _bundled(config: DataConfig, classes: Classes) -> Source:
    del config, classes
    from skimage.data import data_dir

    folders = (pathlib.Path(__file__).parent, pathlib.Path(data_dir))
    paths = [next(f / name for f in folders if (f / name).is_file()) for name in _BUNDLED]
    boxes, labels = zip(*_BUNDLED.values(), strict=True)
    return Source(
        name="demo pictures",
        ids=[path.stem.removesuffix("_left") for path in paths],
        label=labels.__getitem__,
        boxes=no_boxes,
        open_image=lambda index: images.open_file(paths[index]).crop(boxes[index]),
        digest=lambda index: digest(f"{digest_file(paths[index])} {boxes[index]}".encode()),
    )


def _tfds(config: DataConfig, classes: Classes) -> Source:
    # Imported on demand, because TFDS takes seconds to import.
    from cfx_jax.data._tfds import open_tfds

    return open_tfds(config, classes)


_OPENERS: dict[str, Callable[[DataConfig, Classes], Source]] = {
    "bundled": _bundled,
    "folder": open_folder,
    "npz": open_npz,
    "tfds": _tfds,
}
