"""A run: config -> data -> models -> explain on all local devices -> records -> page.

The only module that reads a whole config. `run` is what `python -m cfx_jax.main` does.
"""

import dataclasses
import functools
import importlib.metadata
import math
import os
import pathlib
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

import cfx_jax
from cfx_jax import data, registry, report
from cfx_jax.checks import check_problem, logits_shape
from cfx_jax.classifiers import Classifier
from cfx_jax.config import Config, ConfigError
from cfx_jax.explain import predict
from cfx_jax.explanation import Explanation, Status
from cfx_jax.generators import Generator
from cfx_jax.objective import make_problem
from cfx_jax.records import Field, RecordWriter, encode_ids
from cfx_jax.settings import Settings
from cfx_jax.solver import Solver

_DISTRIBUTIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorstore")
_SCALARS = ("log_odds_original", "log_odds_infilled", "kept_area", "success_rate", "objective")
# float32 probabilities stop short of 0 and 1 by about this much; keeps logits finite in float16.
_PROBABILITY_MARGIN = 1e-7


def run(config: Config, workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Explains every example of a dataset and writes records and a report.

    Args:
        config: the whole run.
        workdir: folder of the run. One that holds an interrupted run of the same config is resumed;
            a finished one only gets its page written anew.

    Returns:
        Path of the report, `workdir/report/index.html`.

    Raises:
        ConfigError: the config, the data or the weights cannot be used.
        RecordsError: `workdir` holds a run of another config, or something else.
        OSError: `workdir` cannot be written.
    """
    config.validate()
    source = data.open_source(config.data)
    classifier, generator = _load_models(config)
    settings = config.explain.settings()
    shape = _image_shape(classifier, generator, settings)
    fields = _fields(config, source, settings, shape[:2])
    writer = RecordWriter(
        workdir,
        _manifest(config, settings, source, classifier, generator),
        fields,
        num_examples=len(source),
        unit_size=config.batch.unit_size,
    )
    solver = Solver(classifier, generator, settings, config.batch.per_device_batch_size)
    units = [(unit, range(*writer.unit_range(unit))) for unit in writer.missing_units()]
    steps_per_image = len(config.explain.objectives) * settings.num_steps
    is_checked = False
    with _Bar(sum(len(indices) for _, indices in units), steps_per_image) as bar:
        for unit, indices in units:
            examples = _read(config, source, indices, shape)
            if examples.readable.size and not is_checked:
                _check(classifier, examples.images)
                is_checked = True
            targets = _targets(examples, classifier)
            explanations = _solve(config, examples, targets, solver, bar)
            values = _values(fields, examples, targets, explanations)
            writer.write_unit(unit, values)
            bar.finish_images(len(indices))
    return report.write_report(workdir, config.report.max_images)


@dataclasses.dataclass
class _Examples:
    """The examples of a unit.

    `images` float32 `[m, H, W, C]` holds the readable ones only, `readable` int `[m]` their rows.
    """

    ids: list[str]
    labels: np.ndarray
    images: np.ndarray
    readable: np.ndarray


class _Bar:
    """The progress bar: images done, current objective, time left."""

    def __init__(self, num_images: int, steps_per_image: int) -> None:
        self._num_images = num_images
        self._steps_per_image = steps_per_image
        self._images_done = 0
        self._bar = tqdm(
            total=num_images * steps_per_image,
            disable=not num_images,
            bar_format="{percentage:3.0f}% |{bar:24}| {desc} [{elapsed}, {remaining} left]",
        )

    def __enter__(self) -> "_Bar":
        self._describe("compiling")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, objective_name: str, steps: int, objective: float) -> None:
        """Moves on by `steps` optimiser steps of single images."""
        self._bar.update(steps)
        self._describe(f"{objective_name} objective {objective:.2f}")

    def finish_images(self, num_images: int) -> None:
        """Counts images as done, those without a step (unreadable ones) too."""
        self._images_done += num_images
        self._bar.update(self._images_done * self._steps_per_image - self._bar.n)
        self._describe("written")

    def _describe(self, text: str) -> None:
        self._bar.set_description_str(f"{self._images_done}/{self._num_images} images, {text}")


def _load_models(config: Config) -> tuple[Classifier, Generator]:
    asked = config.classifier
    class_names = _read_class_names(asked.class_names) if asked.class_names else None
    try:
        classifier = registry.load_classifier(
            asked.name,
            asked.weights or None,
            class_names=class_names,
            normalization=asked.normalization or None,
        )
        generator = registry.load_generator(config.generator.name, config.generator.weights or None)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    return classifier, generator


def _read_class_names(path: str) -> list[str]:
    try:
        # Editors may begin UTF-8 files with a byte order mark and end them with empty lines.
        return pathlib.Path(path).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"classifier.class_names: {path} cannot be read as a text file with one class name a "
            f"line ({error})"
        ) from error


def _check(classifier: Classifier, images: np.ndarray) -> None:
    """Says in one line what is wrong with the classifier; the run goes on."""
    findings = classifier.check(images)
    if not findings:
        logging.info("classifier checked: ok")
        return
    line = f"classifier checked: {'; '.join(map(str, findings))}"
    logging.warning("%s", line)
    if not logging.level_warning():  # As on the command line, which switches absl off.
        tqdm.write(line, file=sys.stderr)


def _image_shape(
    classifier: Classifier, generator: Generator, settings: Settings
) -> tuple[int, int, int]:
    """Returns `(H, W, C)` images are brought to, after checking that the models agree on it."""
    if classifier.image_size is None:
        raise ConfigError(f"classifier {classifier.name!r} has no image size to bring images to")
    shape = (*classifier.image_size, classifier.channels)
    try:
        check_problem(classifier, generator, jnp.zeros((1, *shape)), "ssr", settings)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return shape


def _manifest(
    config: Config,
    settings: Settings,
    source: data.Source,
    classifier: Classifier,
    generator: Generator,
) -> dict[str, Any]:
    """What makes this run this run; only `environment` may differ when it is resumed."""
    asked = dataclasses.asdict(config)
    del asked["report"]["max_images"], asked["batch"]["per_device_batch_size"]
    return {
        "config": asked,
        "settings": dataclasses.asdict(settings) | {"relaxation": settings.relaxation.value},
        "dataset": {
            "name": source.name,
            "num_examples": len(source),
            "fingerprint": source.fingerprint,
        },
        "classifier": _identity(classifier),
        "generator": _identity(generator),
        "class_names": list(classifier.class_names) or None,
        "objectives": list(config.explain.objectives),
        "status_names": [status.name.lower() for status in Status],
        "environment": {
            "versions": {"cfx_jax": cfx_jax.__version__}
            | {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS},
            "devices": [str(device) for device in jax.local_devices()],
            "per_device_batch_size": config.batch.per_device_batch_size,
        },
    }


def _identity(model: Classifier | Generator) -> dict[str, str]:
    return {"name": model.name, "weights_digest": registry.weights_digest(model.params)}


def _fields(
    config: Config, source: data.Source, settings: Settings, size: tuple[int, int]
) -> list[Field]:
    id_width = max(len(text.encode()) for text in source.ids)
    picture = ((*size, 3), ("y", "x", "channel"))
    cells = ((settings.mask_size, settings.mask_size), ("cell_y", "cell_x"))
    fields = [Field("id", "uint8", (id_width,), ("id_byte",))]
    fields += [Field(name, "int32") for name in ("label", "target", "prediction")]
    if config.report.save_images:
        fields.append(Field("image", "uint8", *picture))
    for objective in config.explain.objectives:
        fields += [
            Field(f"{objective}_status", "int8"),
            Field(f"{objective}_mask_logits", "float16", *cells),
            Field(f"{objective}_trace", "float32", (settings.num_steps,), ("step",)),
            *(Field(f"{objective}_{name}", "float32") for name in _SCALARS),
        ]
        if config.report.save_images:
            fields.append(Field(f"{objective}_infilled", "uint8", *picture))
    return fields


def _read(
    config: Config, source: data.Source, indices: range, shape: tuple[int, int, int]
) -> _Examples:
    images, readable = [], []
    for row, index in enumerate(indices):
        try:
            image = source.load(index, shape[:2], config.data.resize)
            images.append(image if shape[2] == 3 else image.mean(axis=-1, keepdims=True))
            readable.append(row)
        except data.UnreadableImageError as error:
            tqdm.write(f"unreadable image, recorded as such: {error}")
    return _Examples(
        ids=[source.ids[index] for index in indices],
        labels=np.asarray([source.label(index) for index in indices], np.int32),
        images=np.stack(images) if images else np.zeros((0, *shape), np.float32),
        readable=np.asarray(readable, int),
    )


def _targets(examples: _Examples, classifier: Classifier) -> np.ndarray:
    """The labels, and the predicted class where an example has none; int32 `[n]`."""
    if not examples.readable.size:
        return examples.labels
    num_classes = logits_shape(classifier, examples.images)[-1]
    outside = examples.labels >= num_classes
    if outside.any():
        row = int(np.argmax(outside))
        raise ConfigError(
            f"example {examples.ids[row]!r} has label {examples.labels[row]}, but classifier "
            f"{classifier.name!r} has classes 0 to {num_classes - 1}"
        )
    targets = examples.labels.copy()
    for row, image in zip(examples.readable, examples.images, strict=True):
        if targets[row] == data.UNKNOWN_LABEL:
            targets[row] = int(predict(classifier, image[None])[0])
    return targets


def _solve(
    config: Config, examples: _Examples, targets: np.ndarray, solver: Solver, bar: _Bar
) -> dict[str, Explanation]:
    """Explains the readable examples, one objective after the other."""
    if not examples.readable.size:
        return {}
    # The identity of an example is its id: neither its place nor its decoded bits.
    checksums = [zlib.crc32(examples.ids[row].encode()) for row in examples.readable]
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        jax.random.key(config.seed), np.asarray(checksums, np.uint32)
    )
    explanations = {}
    for objective in config.explain.objectives:
        problems = jax.vmap(functools.partial(make_problem, objective=objective))(
            keys, jnp.asarray(examples.images), targets[examples.readable]
        )
        explanations[objective] = solver(problems, functools.partial(bar.update, objective.upper()))
    return explanations


def _values(
    fields: Sequence[Field],
    examples: _Examples,
    targets: np.ndarray,
    explanations: dict[str, Explanation],
) -> dict[str, np.ndarray]:
    """Lays a unit out as record fields; an unreadable example has its status and no more."""
    n = len(examples.ids)
    values = {f.name: np.full((n, *f.shape), _blank(f), f.dtype) for f in fields}
    values["id"] = encode_ids(examples.ids, values["id"].shape[1])
    values["label"] = examples.labels
    values["target"] = targets
    rows = examples.readable
    if "image" in values:
        # A grey picture is kept as RGB, which is what is shown.
        values["image"][rows] = _to_uint8(examples.images)
    for objective, result in explanations.items():
        values["prediction"][rows] = result.prediction
        values[f"{objective}_status"][rows] = result.status
        values[f"{objective}_trace"][rows] = result.trace
        keep = np.clip(result.keep_prob, _PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
        values[f"{objective}_mask_logits"][rows] = np.log(keep) - np.log1p(-keep)
        for name in _SCALARS:
            values[f"{objective}_{name}"][rows] = getattr(result, name)
        if f"{objective}_infilled" in values:
            values[f"{objective}_infilled"][rows] = _to_uint8(result.infilled)
    return values


def _blank(field: Field) -> float:
    if field.name.endswith("_status"):
        return Status.UNREADABLE
    if field.dtype.startswith("float"):
        return math.nan
    return -1 if field.dtype.startswith("int") else 0


def _to_uint8(images: np.ndarray | jax.Array) -> np.ndarray:
    return np.round(255.0 * np.nan_to_num(np.clip(images, 0.0, 1.0))).astype(np.uint8)
