"""Fills the holes of a folder of images: `python -m cfx_jax.infill_folder`."""

import collections
import logging
import pathlib
import sys

import jax
import numpy as np
from absl import flags
from PIL import Image

import cfx_jax
from cfx_jax import data, registry
from cfx_jax.commands import command_line
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UnreadableImageError, open_file, reading, to_floats, to_grey, to_rgb
from cfx_jax.generators import Generator, blend
from cfx_jax.records import local_folder
from cfx_jax.report import pictures

_SKIPPED = 1  # Exit status if some images were skipped.


def main() -> None:
    """In-fills the folder that the command line names, and exits."""
    _define_flags()
    command_line.run_main(_fill)


def _define_flags() -> None:
    flags.DEFINE_string("images", None, "Folder of images.", required=True)
    flags.DEFINE_string("masks", None, "Folder of masks, PNG, white = keep.", required=True)
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_string("generator", "gated_unet", "Name of the generator.")
    flags.DEFINE_string("weights", None, "File of its weights; default: the packaged ones.")
    flags.DEFINE_integer("seed", 0, "Seed of generators that draw.")


def _fill() -> None:
    given = flags.FLAGS
    try:
        generator = registry.load_generator(given.generator, given.weights)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    images, masks, output = map(local_folder, (given.images, given.masks, given.output))
    skipped = infill_folder(generator, images, masks, output, given.seed)
    for reason in skipped:
        logging.getLogger("cfx_jax").warning("skipped: %s", reason)
    if skipped:
        sys.exit(_SKIPPED)


def infill_folder(
    generator: Generator,
    images: pathlib.Path,
    masks: pathlib.Path,
    output: pathlib.Path,
    seed: int = 0,
) -> list[str]:
    """Fills the holes of every image of a folder.

    Args:
        generator: generator that fills the holes.
        images: folder of images.
        masks: folder of masks.
        output: folder to write to, created if missing.
        seed: random seed for stochastic generators.

    Returns:
        The reasons why images were skipped, one per image.

    Raises:
        ConfigError: there is no image, two images would be written to the same file, or the output
            would be inside the folder of images or masks.
        OSError: the output cannot be written.
    """
    _check_output(images, masks, output)
    source = data.open_source(DataConfig(source="folder", path=str(images)))
    targets = [pathlib.Path(name).with_suffix(".png") for name in source.ids]
    target, count = collections.Counter(targets).most_common(1)[0]
    if count > 1:
        names = [name for name, other in zip(source.ids, targets, strict=True) if other == target]
        raise ConfigError(f"{' and '.join(names)} would both be written to {target}: rename one")
    names = [target.as_posix() for target in targets]
    forms = data.match_forms(names, data.list_images(masks).images, str(masks))
    network = registry.NETWORKS.get(generator.name)
    channels = network.channels if network else 3
    skipped = []
    for index, (name, target) in enumerate(zip(source.ids, targets, strict=True)):
        try:
            image = _to_floats(source.decode(index, channels))
            mask = _read_mask(masks / forms.get(target.as_posix(), target))
            key = jax.random.key(seed)
            infilled = np.asarray(cfx_jax.infill(key, generator, image[None], mask[None])[0])
        except UnreadableImageError as error:
            skipped.append(str(error))
            continue
        except (OSError, ValueError) as error:
            skipped.append(f"{name}: {error}")
            continue
        sheet = pictures.draw_sheet([(image, blend(image, mask, 0.5), infilled)])
        for folder, picture in {"infilled": pictures.to_pixels(infilled), "sheets": sheet}.items():
            path = output / folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pictures.encode_png(picture))
    return skipped


def _check_output(images: pathlib.Path, masks: pathlib.Path, output: pathlib.Path) -> None:
    """Raises `ConfigError` if the output would overwrite, or be read as, images or masks."""
    for folder in ("infilled", "sheets"):
        for read in (images, masks):
            config = DataConfig(source="folder", path=str(read))
            data.check_output_folder(config, output / folder, "--output: its folder")


def _to_floats(image: Image.Image) -> np.ndarray:
    return to_floats(np.asarray(image).reshape(image.height, image.width, -1))


def _read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads a mask `[H, W, 1]` in [0, 1]; of only two values, the larger becomes 1.

    Raises:
        UnreadableImageError: the file is not an image, or its values are invalid for a mask.
    """
    with reading(f"mask {path}"), open_file(path) as image:
        if image.has_transparency_data:
            raise ValueError("it has an alpha channel; expected white = keep, black = fill")
        if image.mode.startswith("I"):
            raise ValueError("it has 16 bits or more a pixel; expected 8")
        mask = np.asarray(to_grey(to_rgb(image)))[..., None]
        values = np.unique(mask)
        if len(values) == 2:
            mask = np.where(mask == values[1], np.uint8(255), np.uint8(0))
        elif len(values) == 1 and values[0] == 1:
            mask = np.full_like(mask, 255)
        elif {*values[[0, -1]]} - {0, 255}:
            raise ValueError(
                f"{len(values)} values from {values[0]} to {values[-1]}; expected two, white = "
                "keep and black = fill, or greys up to 255 between them"
            )
        return to_floats(mask)
