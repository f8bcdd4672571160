"""Example sources -> images ready to explain: bundled photographs, an image folder, TFDS.

Images are float32 `[H, W, 3]`, RGB in [0, 1], at the size the classifier wants. Example ids are
text, unique, and belong to the data (a file name, a record of a TFDS split), never to a place in a
batch or a run.
"""

import contextlib
import csv
import dataclasses
import hashlib
import io
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageOps

from cfx_jax.config import ConfigError, DataConfig

UNKNOWN_LABEL = -1
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
# The published protocol resizes the short side to 256 before it crops 224.
_CROP_MARGIN = 256 / 224
_MAX_PIXELS = 100_000_000
_BUNDLED = {"chelsea.png": 285, "coffee.png": 967, "rocket.jpg": 657}


class UnreadableImageError(ValueError):
    """One image that cannot be decoded: a status of that example, never the end of a run."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A list of examples with stable ids, decoded on demand.

    Attributes:
        name: shown in reports.
        ids: unique id of each example.
        label: index -> class index, `UNKNOWN_LABEL` where the data have none.
        open_image: index -> undecoded PIL image.
    """

    name: str
    ids: Sequence[str]
    label: Callable[[int], int]
    open_image: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the ids: a run is only resumed on the examples it began with."""
        return hashlib.sha256("\0".join(self.ids).encode()).hexdigest()

    def load(self, index: int, size: tuple[int, int], resize: str) -> np.ndarray:
        """Decodes one example.

        Args:
            index: position in `ids`.
            size: `(H, W)` to return.
            resize: `crop` (short side to 256/224 of the size, centre crop) or `stretch`.

        Returns:
            float32 `[H, W, 3]` in [0, 1].

        Raises:
            UnreadableImageError: the bytes are not an image that can be decoded.
        """
        return fit(self.decode(index), size, resize)

    def decode(self, index: int) -> Image.Image:
        """Decodes one example to an upright RGB image of its own size.

        Args:
            index: position in `ids`.

        Returns:
            A PIL image of mode RGB.

        Raises:
            UnreadableImageError: the bytes are not an image that can be decoded.
        """
        try:
            # Pillow warns of what it can read all the same: odd metadata, sizes within our limit.
            with warnings.catch_warnings(action="ignore"), self.open_image(index) as image:
                # Checked on the header, before the pixels are decoded into memory.
                if image.width * image.height > _MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are too many")
                return _to_rgb(image)
        except Exception as error:  # Decoders raise any type on broken bytes.
            raise UnreadableImageError(f"{self.ids[index]}: {_first_line(error)}") from error


def fit(image: Image.Image, size: tuple[int, int], resize: str) -> np.ndarray:
    """Resizes an RGB image bicubically to `size`, float32 `[H, W, 3]` in [0, 1].

    `stretch` ignores the aspect ratio; `crop` keeps it: the image is scaled until it covers
    256/224 of the size in both directions and the centre is cut out.
    """
    height, width = size
    if resize == "crop":
        scale = _CROP_MARGIN * max(height / image.height, width / image.width)
        columns, rows = round(image.width * scale), round(image.height * scale)
        left, top = (columns - width) // 2, (rows - height) // 2
        # The cut-out in source pixels: the rest of a very long image is never scaled up.
        x, y = image.width / columns, image.height / rows
        box = (left * x, top * y, (left + width) * x, (top + height) * y)
    else:
        box = None
    resized = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, np.float32) / 255.0


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decodes to 8-bit RGB, upright as EXIF says."""
    image.load()
    # Damaged metadata say nothing about the pixels, and those are sound.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey to 255.
        image = Image.fromarray((np.asarray(image) / 257.0).round().astype(np.uint8))
    return image.convert("RGB")


def open_source(config: DataConfig) -> Source:
    """Opens the examples a config names.

    Args:
        config: the `data` section.

    Returns:
        A `Source` with at least one example.

    Raises:
        ConfigError: the data are not there; the message says what is missing and how to get it.
    """
    source = {"bundled": _bundled, "folder": _folder, "tfds": _tfds}[config.source](config)
    if config.max_examples is not None:
        source = dataclasses.replace(source, ids=source.ids[: config.max_examples])
    if not len(source):
        raise ConfigError(
            f"data: {source.name!r} holds no image; a folder needs files that end in "
            f"{', '.join(sorted(_SUFFIXES))} or a manifest.csv that lists some"
        )
    return source


def _bundled(config: DataConfig) -> Source:
    from skimage.data import data_dir

    paths = [pathlib.Path(data_dir) / name for name in _BUNDLED]
    return Source(
        name="scikit-image photographs",
        ids=[path.stem for path in paths],
        label=list(_BUNDLED.values()).__getitem__,
        open_image=lambda index: Image.open(paths[index]),
    )


def _folder(config: DataConfig) -> Source:
    root = pathlib.Path(config.path)
    if not config.path or not root.is_dir():
        raise ConfigError(
            f"data.path: no image folder at {config.path!r}; give one with --config.data.path=DIR"
        )
    manifest = root / "manifest.csv"
    if manifest.is_file():
        names, labels = _read_manifest(manifest, config.split)
    else:
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES)
        names = [path.relative_to(root).as_posix() for path in files]
        labels = [UNKNOWN_LABEL] * len(names)
    return Source(
        name=root.resolve().name,
        # File names may be any bytes, ids are text: a byte that is none becomes `\\xNN`.
        ids=[os.fsencode(name).decode(errors="backslashreplace") for name in names],
        label=labels.__getitem__,
        open_image=lambda index: Image.open(root / names[index]),
    )


def _read_manifest(path: pathlib.Path, split: str) -> tuple[list[str], list[int]]:
    """Reads the columns `file`, `label` and `split`, where present, of a folder's manifest.csv."""
    try:
        # Spreadsheets begin UTF-8 files with a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        if split:
            rows = [row for row in rows if row["split"] == split]
        names = [row["file"] for row in rows]
        labels = [int(row.get("label") or UNKNOWN_LABEL) for row in rows]
        if not all(names) or min(labels, default=0) < UNKNOWN_LABEL:
            raise ValueError("a row has no file or a label below -1")
    except (KeyError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path}: expected a column `file`, if labels are known a column `label` of whole "
            f"numbers, and a column `split` if one is asked for ({type(error).__name__}: {error})"
        ) from error
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: a file is listed twice, but each example needs its own id")
    return names, labels


def _tfds(config: DataConfig) -> Source:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(config.name, data_dir=config.path or None)
        # Undecoded, so that a broken image is one example's failure and decoding is ours.
        records = builder.as_data_source(
            split=config.split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        parts = tfds.core.ReadInstruction.from_spec(config.split).to_absolute(builder.info.splits)
    except Exception as error:  # TFDS raises a different type for every way of being absent.
        raise ConfigError(_tfds_help(config, error)) from error
    features = builder.info.features
    if "image" not in features:
        raise ConfigError(
            f"data.name: the TFDS dataset {config.name!r} has no feature `image`; it has "
            f"{', '.join(features)}"
        )
    version = builder.info.full_name
    # Numbered in the whole split, so that a slice of it has the same ids.
    ids = [
        f"{version}/{part.splitname}/{index}"
        for part in parts
        for index in range(builder.info.splits[part.splitname].num_examples)[part.from_ : part.to]
    ]
    labelled = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
    return Source(
        name=f"{version}/{config.split}",
        ids=ids,
        label=lambda index: int(records[index]["label"]) if labelled else UNKNOWN_LABEL,
        open_image=lambda index: Image.open(io.BytesIO(records[index]["image"])),
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _tfds_help(config: DataConfig, error: Exception) -> str:
    where = f", data_dir='{config.path}'" if config.path else ""
    return f"""\
data: the TFDS dataset {config.name!r}, split {config.split!r}, cannot be opened.
  looked in: {config.path or "~/tensorflow_datasets, the TFDS default; change it with data.path"}
  TFDS said: {_first_line(error)}
To prepare it once as array_record files (ImageNet first needs ILSVRC2012_img_train.tar and
ILSVRC2012_img_val.tar from https://image-net.org/download in the folder downloads/manual there):
  pip install 'cfx_jax[tensorflow]'
  python -c "import tensorflow_datasets as t; t.builder('{config.name}'{where},
      file_format='array_record').download_and_prepare()"
If it is there as tfrecord files, convert them:
  python -m tensorflow_datasets.scripts.convert_format --dataset_dir=DIR \\
      --out_file_format=array_record
Or explain a folder of images: --config.data.source=folder --config.data.path=DIR"""
