"""An evaluation: runs and other methods on the same images -> stores of numbers -> tables.

With `--records`, given once for each run, finished or not, their masks are measured. With a config
alone, the runs it asks for are done first, one for each in-fill, in folders of the workdir. Either
way other methods are measured on the same images. The workdir then holds

    scores/NAME/     records of each method: every number of every image
    table.md, table.csv, table.json, images.csv, *.png

The way of the data: `load_units` decodes a unit, a `Part` measures it with the `Scorer`, and
`RecordWriter` writes it, so the same command resumes; `tables` reads it all back.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cfx_jax import data, registry
from cfx_jax.config import ClassifierConfig, Config, ConfigError, DataConfig, GeneratorConfig
from cfx_jax.data import Examples, images, load_units
from cfx_jax.evaluate import tables
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.measures import Baseline, Joint, Learnt, Part, Photographs, Unit
from cfx_jax.evaluate.scoring import Image, Scorer
from cfx_jax.generators import Generator
from cfx_jax.records import Field, RecordReader, RecordWriter, encode_ids
from cfx_jax.report import page
from cfx_jax.runs import cluster, runner
from cfx_jax.runs.explanations import Explanations
from cfx_jax.runs.preemption import StopRequest
from cfx_jax.runs.progress import say


def evaluate(
    config: EvaluateConfig,
    workdir: str | os.PathLike[str],
    records: Sequence[str] = (),
    images_path: str = "",
    stop: StopRequest | None = None,
) -> str:
    """Measures runs and other methods on the images of the runs.

    Args:
        config: the evaluation; with `records` its data, classifier and precision are theirs.
        workdir: folder of the evaluation, on a local disk or `gs://bucket/path`; one that holds an
            interrupted evaluation is resumed.
        records: folders of runs of the same images and classifier; none runs what `config` asks.
        images_path: with `records`, where the images lie now; "" = where they were.
        stop: looked at between units; None never stops.

    Returns:
        The tables as Markdown, of the images that all runs have explained.

    Raises:
        ConfigError: the config, the data or the weights cannot be used.
        RecordsError: a folder holds something else than a run, or an evaluation of another config.
        FileNotFoundError: there is no run in a folder of `records`.
        OSError: `workdir` cannot be written.
        StoppedError: the evaluation was asked to stop; what is written is whole.
    """
    config.validate()
    stop = stop or StopRequest()
    runs = list(records) or _run_all(config, str(workdir), stop)
    learnt = _open_runs(runs)
    if records:
        config = _adopt(config, learnt[0].manifest["config"], images_path)
    study = _Study.open(config, learnt)
    parts: list[Part] = [Photographs()]
    parts += [Baseline(name, config.baseline_infill) for name in config.baselines]
    parts += learnt
    # By the name of the run, in the order of the objectives: SSR, then SDR.
    pairs = itertools.combinations(learnt, 2)
    parts += [Joint(ssr, sdr) for ssr, sdr in pairs if ssr.run == sdr.run]
    stores = {part.name: f"{workdir}/scores/{part.name}" for part in parts}
    total = len(parts) * len(study.source)
    with tqdm(total=total, unit="map", disable=not cluster.is_first()) as bar:
        for part in parts:
            bar.set_description(part.name)
            _measure(part, study, learnt, stores[part.name], stop, bar)
    if not cluster.is_first():
        return ""
    return tables.write_tables(workdir, stores, study.judges, learnt)


@dataclasses.dataclass(frozen=True)
class _Study:
    """What all parts of an evaluation share."""

    config: EvaluateConfig
    source: data.Source
    shape: tuple[int, int, int]
    scorer: Scorer
    judges: tuple[str, ...]
    manifest: dict[str, Any]
    fitted_boxes: Any

    @classmethod
    def open(cls, config: EvaluateConfig, learnt: Sequence[Learnt]) -> "_Study":
        """Loads data and models, and checks that the runs are of these.

        Raises:
            ConfigError: a run has other images or another classifier.
        """
        source = data.open_source(config.data)
        classifier, generator = registry.load_models(config)
        shape = registry.image_shape(classifier, generator, config.explain.settings())
        manifest: dict[str, Any] = {
            "dataset": {"num_examples": len(source), "fingerprint": source.fingerprint},
            "classifier": registry.identity(classifier),
        }
        for part in learnt:
            stored = {key: {k: part.manifest[key][k] for k in manifest[key]} for key in manifest}
            for what, expected in manifest.items():
                if stored[what] != expected:
                    raise ConfigError(
                        f"{part.name}: the run has {what} {stored[what]}, not {expected}; "
                        "expected the same images and classifier for all that is compared"
                    )
        judges, infill = _load_judges(config, generator)
        scorer = Scorer(
            jax.random.key(config.seed),
            classifier,
            judges,
            infill,
            config.curve_steps,
            config.batch.per_device_batch_size or 1,
        )
        boxes = functools.cache(
            functools.partial(_fitted_boxes, source, size=shape[:2], resize=config.data.resize)
        )
        manifest |= {
            "judges": [registry.identity(judge) for judge in judges],
            "infill": registry.identity(infill),
            "resize": config.data.resize,
            "seed": config.seed,
            "precision": config.precision,
            "curve_steps": config.curve_steps,
            "environment": runner.environment(config.batch),
        }
        names = tuple(judge.name for judge in judges)
        return cls(config, source, shape, scorer, names, manifest, boxes)

    def units(self, missing: Sequence[tuple[int, range]]) -> Iterator[Unit]:
        """Decodes units and lets the classifier look at them."""
        for examples in load_units(self.source, missing, self.shape, self.config.data.resize):
            indices = dict(missing)[examples.unit]
            targets = jnp.asarray(examples.labels[examples.readable])
            image = Image(jnp.asarray(examples.images), targets, jnp.asarray(examples.identities))
            boxes = [self.fitted_boxes(indices[row]) for row in examples.readable]
            looks = self.scorer.look(image)
            image = image._replace(target=looks.target)
            yield Unit(examples, (indices.start, indices.stop), image, looks, boxes)


def _measure(
    part: Part,
    study: _Study,
    learnt: Sequence[Learnt],
    store: str,
    stop: StopRequest,
    bar: tqdm,
) -> None:
    """Measures what a part is still to measure of what it can, and writes it."""
    width = max(len(text.encode()) for text in study.source.ids)
    fields = [Field("id", "uint8", (width,), ("id_byte",)), *part.fields(study.scorer)]
    with RecordWriter(
        store,
        {"part": part.identity()} | study.manifest,
        fields,
        num_examples=len(study.source),
        unit_size=study.config.batch.unit_size,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
    ) as writer:
        reader = RecordReader(store)
        ranges = {unit: range(*reader.unit_range(unit)) for unit in range(reader.num_units)}
        # Of all methods the same images: those that all runs have explained by now.
        ready = {
            u: indices
            for u, indices in ranges.items()
            if all(run.is_ready(indices) for run in learnt)
        }
        missing = [(unit, ready[unit]) for unit in writer.missing_units() if unit in ready]
        bar.update(len(study.source) - sum(len(indices) for _, indices in missing))
        for unit in study.units(missing):
            stop.check()
            examples = unit.examples
            measured = part.measure(unit, study.scorer) if len(examples.readable) else {}
            writer.write_unit(examples.unit, _lay_out(fields, examples, measured))
            bar.update(len(examples.ids))
    cluster.wait_for_units(reader, ready, stop)


def _lay_out(
    fields: Sequence[Field], examples: Examples, measured: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Lays a unit out as record fields; an unreadable example has its id and no more."""
    values = {}
    for field in fields:
        blank = np.nan if field.dtype.startswith("float") else -1 if field.name != "id" else 0
        values[field.name] = np.full((len(examples.ids), *field.shape), blank, field.dtype)
        if field.name in measured:
            values[field.name][examples.readable] = measured[field.name]
    values["id"] = encode_ids(examples.ids, values["id"].shape[1])
    return values


def _run_all(config: EvaluateConfig, workdir: str, stop: StopRequest) -> list[str]:
    """Runs, or goes on with, the explanations a config asks for; returns their folders."""
    fields = [field.name for field in dataclasses.fields(Config)]
    folders = []
    for name in config.infills:
        run = Config(**{field: getattr(config, field) for field in fields})
        # The weights that the config gives are those of the generator it names.
        if name != config.generator.name:
            run.generator = GeneratorConfig(name)
        folders.append(f"{workdir}/runs/{name}")
        if cluster.is_first():
            say(f"explaining with {name}")
        runner.run(run, folders[-1], stop)
        if cluster.is_first():
            page.write_report(folders[-1], run.report.max_images)
    return folders


def _open_runs(folders: Sequence[str]) -> list[Learnt]:
    names = [pathlib.PurePath(folder).name for folder in folders]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"--records: the folders end in {', '.join(names)}; expected a name of its own for "
            "each, because tables show it"
        )
    parts = []
    for name, folder in zip(names, folders, strict=True):
        reader = Explanations(folder)
        if not reader.complete.all() and cluster.is_first():
            done = int(reader.complete.sum())
            say(f"{folder}: {done} of {reader.num_examples} images are explained by now")
        parts += [Learnt(name, reader, objective) for objective in reader.objectives]
    return parts


def _adopt(config: EvaluateConfig, stored: dict[str, Any], images_path: str) -> EvaluateConfig:
    """Takes what was explained from the manifest of a run."""
    asked = DataConfig(**stored["data"])
    return dataclasses.replace(
        config,
        data=dataclasses.replace(asked, path=images_path or asked.path),
        classifier=ClassifierConfig(**stored["classifier"]),
        precision=stored["precision"],
    )


def _load_judges(
    config: EvaluateConfig, generator: Generator
) -> tuple[tuple[Generator, ...], Generator]:
    """Returns those that fill the holes of curves, grey first, and that of other methods."""
    try:
        grey = registry.load_generator("grey")
        infill = registry.load_generator(config.baseline_infill)
    except ValueError as error:
        raise ConfigError(f"baseline_infill: {error}") from error
    return (grey, generator) if generator.name != "grey" else (grey,), infill


def _fitted_boxes(
    source: data.Source, index: int, size: tuple[int, int], resize: str
) -> np.ndarray:
    boxes = source.boxes(index)
    if not len(boxes):
        return boxes
    image = source.decode(index)
    return images.fit_boxes(boxes, (image.height, image.width), size, resize)
