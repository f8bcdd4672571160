"""In-fills a folder of images for a person to look at.

python -m cfx_jax.infill_folder --images=DIR --masks=DIR --output=DIR [--generator=gated_unet]

`masks/NAME.png` is the mask of `images/NAME.jpg`, of its size, white = keep, black = fill. The
output then holds `infilled/NAME.png`, and in `sheets/NAME.png` image, masked and filled image.
"""

import logging
import pathlib

import jax
import numpy as np
from absl import flags
from PIL import Image

import cfx_jax
from cfx_jax import data, registry
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UnreadableImageError
from cfx_jax.data.images import to_floats
from cfx_jax.generators import Generator, blend
from cfx_jax.report import pictures
from cfx_jax.runs import cli

IMAGES = flags.DEFINE_string("images", None, "Folder of images.", required=True)
MASKS = flags.DEFINE_string("masks", None, "Folder of masks, PNG, white = keep.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write to.", required=True)
GENERATOR = flags.DEFINE_string("generator", "gated_unet", "Name of the generator.")
WEIGHTS = flags.DEFINE_string("weights", None, "File of its weights; default: the packaged ones.")
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
        ConfigError: there is no image.
        OSError: the output cannot be written.
    """
    source = data.open_source(DataConfig(source="folder", path=str(images)))
    network = registry.NETWORKS.get(generator.name)
    channels = network.channels if network else 3
    skipped = []
    for index, name in enumerate(source.ids):
        target = pathlib.Path(name).with_suffix(".png")
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
    for reason in infill_folder(generator, images, masks, output, SEED.value):
        logging.getLogger("cfx_jax").warning("skipped: %s", reason)


def _to_floats(image: Image.Image) -> np.ndarray:
    return to_floats(np.asarray(image).reshape(image.height, image.width, -1))


def _read_mask(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as image:
        return _to_floats(image.convert("L"))


if __name__ == "__main__":
    cli.run_main(main)
