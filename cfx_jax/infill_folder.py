"""In-fills a folder of images for a person to look at.

python -m cfx_jax.infill_folder --images=DIR --masks=DIR --output=DIR [--generator=gated_unet]

`masks/NAME.png` is the mask of `images/NAME.jpg`, of its size, white = keep, black = fill; of two
values, such as 0 and 1, the larger one is white. The output then holds `infilled/NAME.png`, and in
`sheets/NAME.png` image, masked and filled image. The exit status is 1 if an image was skipped.
"""

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
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UnreadableImageError
from cfx_jax.data.images import open_file, reading, to_floats, to_grey, to_rgb
from cfx_jax.generators import Generator, blend
from cfx_jax.report import pictures
from cfx_jax.runs import cli

IMAGES = flags.DEFINE_string("images", None, "Folder of images.", required=True)
MASKS = flags.DEFINE_string("masks", None, "Folder of masks, PNG, white = keep.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write to.", required=True)
GENERATOR = flags.DEFINE_string("generator", "gated_unet", "Name of the generator.")
WEIGHTS = flags.DEFINE_string("weights", None, "File of its weights; default: the packaged ones.")
SKIPPED = 1  # The exit status where not all images are filled.
SEED = flags.DEFINE_integer("seed", 0, "Seed of generators that draw.")


def infill_folder(
    generator: Generator,
    images: pathlib.Path,
    masks: pathlib.Path,
    output: pathlib.Path,
    seed: int = 0,
) -> list[str]:
    """Fills the holes of every image of a folder.

    Args:
        generator: what fills.
        images: folder of images.
        masks: folder of masks.
        output: folder to write to, made when missing.
        seed: of generators that draw.

    Returns:
        What was wrong with the images that were skipped.

    Raises:
        ConfigError: there is no image, or two have one name for what would be written.
        OSError: the output cannot be written.
    """
    source = data.open_source(DataConfig(source="folder", path=str(images)))
    targets = [pathlib.Path(name).with_suffix(".png") for name in source.ids]
    target, count = collections.Counter(targets).most_common(1)[0]
    if count > 1:
        names = [name for name, other in zip(source.ids, targets, strict=True) if other == target]
        raise ConfigError(f"{' and '.join(names)} would both be written to {target}: rename one")
    network = registry.NETWORKS.get(generator.name)
    channels = network.channels if network else 3
    skipped = []
    for index, (name, target) in enumerate(zip(source.ids, targets, strict=True)):
        try:
            image = _to_floats(source.decode(index, channels))
            mask = _read_mask(masks / target)
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


def main() -> None:
    """Fills the folder that the flags name."""
    try:
        generator = registry.load_generator(GENERATOR.value, WEIGHTS.value)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    images, masks, output = (pathlib.Path(flag.value) for flag in (IMAGES, MASKS, OUTPUT))
    skipped = infill_folder(generator, images, masks, output, SEED.value)
    for reason in skipped:
        logging.getLogger("cfx_jax").warning("skipped: %s", reason)
    if skipped:
        sys.exit(SKIPPED)


def _to_floats(image: Image.Image) -> np.ndarray:
    return to_floats(np.asarray(image).reshape(image.height, image.width, -1))


def _read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads a mask `[H, W, 1]` in [0, 1]; of two values the larger one is 1.

    Raises:
        UnreadableImageError: it is no image, or its values are not those of a mask.
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


if __name__ == "__main__":
    cli.run_main(main)
