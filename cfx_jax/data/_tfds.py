"""A TFDS dataset, array_record or tfrecord, as a source of examples."""

import functools
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import images
from cfx_jax.data._tfrecord import Shard, TFRecordError, TFRecords
from cfx_jax.data.digests import UNREADABLE, digest
from cfx_jax.data.labels import Classes
from cfx_jax.data.source import UNKNOWN_LABEL, Source, no_boxes

_logger = logging.getLogger(__name__)

# Number of records kept in memory, more than there are threads that read them.
_MAX_KEPT = 64


def open_tfds(config: DataConfig, classes: Classes) -> Source:
    """Opens a split of a prepared TFDS dataset, without TensorFlow.

    Args:
        config: the `data` section; `name`, `split` and, if it is not the default, `path` are read.
        classes: classes that the names of its labels refer to.

    Returns:
        A `Source`; each id consists of dataset, version, split and number in the split.

    Raises:
        ConfigError: the dataset is missing or damaged; the message explains how to prepare it.
    """
    import tensorflow_datasets as tfds

    builder, parts = find_split(config)
    try:
        records = _open_records(builder, config.split)
    except TFRecordError as error:
        raise ConfigError(f"data: {error}; prepare the TFDS dataset anew") from error
    except Exception as error:  # TFDS raises many types for a missing dataset.
        raise ConfigError(_help(config, error)) from error
    if "image" not in builder.info.features:
        raise ConfigError(
            f"data.name: the TFDS dataset {config.name!r} has no feature `image`; it has "
            f"{', '.join(builder.info.features)}"
        )
    version = builder.info.full_name
    # Number the examples in the whole split, so that a slice of it has the same ids.
    ids = [
        f"{version}/{part.splitname}/{index}"
        for part in parts
        for index in range(builder.info.splits[part.splitname].num_examples)[part.from_ : part.to]
    ]
    features = _read_features(builder.info.features)
    # Do not decode images here, so that a damaged image fails only its own example.
    decoders = {"image": tfds.decode.SkipDecoding()}

    # Successive calls for one example read its record only once.
    @functools.lru_cache(maxsize=_MAX_KEPT)
    def read(index: int) -> dict[str, Any]:
        example: dict[str, Any] = features.deserialize_example_np(records[index], decoders=decoders)
        return example

    numbers: Sequence[int] = ()
    if "label" in builder.info.features and "label" not in features:
        kind = type(builder.info.features["label"]).__name__
        _logger.warning(
            "%s: its feature 'label' is a %s and no ClassLabel, so it is ignored; the predicted "
            "classes are explained",
            version,
            kind,
        )
    if "label" in features:
        numbers = classes.number(features["label"].names, f"labels of {version}")

    def label(index: int) -> int:
        try:
            return numbers[read(index)["label"]] if numbers else UNKNOWN_LABEL
        except Exception:  # A damaged record, which `decode` reports.
            return UNKNOWN_LABEL

    def digest_image(index: int) -> int:
        # Not a digest of the record: TFDS writes its features in a different order each time.
        try:
            return digest(read(index)["image"])
        except Exception:  # The libraries that read records raise any type.
            return UNREADABLE

    def boxes(index: int) -> np.ndarray:
        if "objects" not in features:
            return no_boxes(index)
        with images.reading(ids[index]):
            example = read(index)
            fractions = np.asarray(example["objects"]["bbox"], np.float32).reshape(-1, 4)
            with Image.open(io.BytesIO(example["image"])) as image:
                return images.upright_boxes(fractions[:, [1, 0, 3, 2]], image)

    return Source(
        name=f"{version}/{config.split}",
        ids=ids,
        label=label,
        boxes=boxes,
        open_image=lambda index: Image.open(io.BytesIO(read(index)["image"])),
        digest=digest_image,
    )


def find_split(config: DataConfig) -> tuple[Any, Any]:
    """Returns the TFDS builder of a prepared dataset, and the parts of its split.

    Raises:
        ConfigError: the dataset is missing; the message explains how to prepare it.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(config.name, data_dir=config.path or None)
        parts = tfds.core.ReadInstruction.from_spec(config.split).to_absolute(builder.info.splits)
    except Exception as error:  # TFDS raises many types for a missing dataset.
        raise ConfigError(_help(config, error)) from error
    return builder, parts


def _open_records(builder: Any, split: str) -> Sequence[bytes] | TFRecords:
    """Opens the serialized examples of a split of a TFDS builder, in the order of their ids."""
    import tensorflow_datasets as tfds

    tfrecord = tfds.core.FileFormat.TFRECORD
    if builder.info.available_file_formats() == {tfrecord}:
        # TFDS needs TensorFlow for TFRecord files, and reads them only from the beginning.
        files = builder.info.splits[split].file_instructions
        return TFRecords([Shard(f.filename, f.examples_in_shard, f.skip, f.take) for f in files])
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    records: Sequence[bytes] = builder.as_data_source(split=split, deserialize_method=raw)
    return records


def _read_features(features: Any) -> Any:
    """Returns the features of a TFDS dataset that are read; decoding the others takes time."""
    import tensorflow_datasets as tfds

    read = {"image": features["image"]}
    if "label" in features and isinstance(features["label"], tfds.features.ClassLabel):
        read["label"] = features["label"]
    objects = getattr(dict(features.items()).get("objects"), "feature", None)
    if isinstance(objects, tfds.features.FeaturesDict):
        bbox = dict(objects.items()).get("bbox")
        # Fractions y0 x0 y1 x1; datasets older than this option do not name their format.
        formats = (tfds.features.BBoxFeature().bbox_format, None)
        if isinstance(bbox, tfds.features.BBoxFeature) and bbox.bbox_format in formats:
            read["objects"] = tfds.features.Sequence({"bbox": bbox})
    return tfds.features.FeaturesDict(read)


def _help(config: DataConfig, error: Exception) -> str:
    if config.path.endswith(".npz"):
        return f"data.path: {config.path!r} is an .npz file: add --config.data.source=npz"
    where = f", data_dir='{config.path}'" if config.path else ""
    return f"""\
data: the TFDS dataset {config.name!r}, split {config.split!r}, cannot be opened.
  searched: {config.path or "~/tensorflow_datasets, the TFDS default; change it with data.path"}
  TFDS error: {images.first_line(error)}
To prepare it once (ImageNet first needs ILSVRC2012_img_train.tar and
ILSVRC2012_img_val.tar from https://image-net.org/download in the folder downloads/manual there):
  pip install 'cfx_jax[tensorflow]'
  python -c "import tensorflow_datasets as t; t.builder('{config.name}'{where},
      file_format='array_record').download_and_prepare()"
Or take a folder of images: --config.data.source=folder --config.data.path=DIR"""
