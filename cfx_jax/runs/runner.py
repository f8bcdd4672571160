"""A run: config -> data -> models -> explain on all local devices -> records.

No other module reads a whole config. `run` does the same as `python -m cfx_jax.main`, without the
gallery and the table. The data passes through a pipeline: `load_units` decodes a unit of examples,
`Solver` explains it, `make_values` converts the explanations to arrays, and `RecordWriter` writes
them. The stages run at the same time, each on a different unit.
"""

import collections
import concurrent.futures
import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cfx_jax import data, numerics, registry
from cfx_jax.classifiers import Classifier
from cfx_jax.config import BatchConfig, Config, ConfigError
from cfx_jax.data import Examples, load_units, to_floats
from cfx_jax.fido import Explanation, Status, count_classes, find_empty
from cfx_jax.generators import Generator
from cfx_jax.records import (
    Cost,
    Costs,
    Field,
    ManifestMismatchError,
    RecordReader,
    RecordWriter,
    Storage,
)
from cfx_jax.runs import cluster
from cfx_jax.runs._identity import INFORMATIVE, make_manifest
from cfx_jax.runs._log import RunLog
from cfx_jax.runs.batch_size import compile_or_halve, compile_to_fit, half_batch
from cfx_jax.runs.explanations import make_attributes, make_fields, make_values
from cfx_jax.runs.jobs import Images
from cfx_jax.runs.preemption import StopRequest
from cfx_jax.runs.progress import ProgressBar
from cfx_jax.runs.same_data import check_same_data, name_other_id
from cfx_jax.runs.solver import Solver

_logger = logging.getLogger(__name__)
_UNITS_IN_WRITING = 2
_Jobs = Iterator[tuple[Examples, Images]]


@numerics.jax_config(numerics.RUN_CONFIG)
def run(
    config: Config,
    workdir: str | os.PathLike[str],
    stop: StopRequest | None = None,
    *,
    classifier: Classifier | None = None,
    generator: Generator | None = None,
) -> None:
    """Explains every example of a dataset and writes its records.

    If several processes call it together (`jax.process_count()`), each explains its share of the
    units, and all return when all units are complete.

    Args:
        config: configuration of the run.
        workdir: folder of the run, on a local disk or in a bucket (`gs://`, `s3://`). An
            interrupted run of the same config in it is resumed; a finished run is not changed.
        stop: stop request, checked during the whole run; None never stops.
        classifier: replaces the classifier of the config. It needs an `image_size`; a resumed run
            identifies it by its name and the digest of its params.
        generator: replaces the generator of the config; identified in the same way.

    Raises:
        ConfigError: the config, the data or the weights cannot be used.
        RecordsError: `workdir` contains a run of another config or of other data, or other files,
            or another run is writing to it.
        OSError: `workdir` cannot be written.
        StoppedError: the run was requested to stop; every written unit is complete.

    Example:
        >>> import tempfile, jax, cfx_jax
        >>> from cfx_jax.records import RecordReader
        >>> from cfx_jax.config import Config, DataConfig, ExplainConfig, GeneratorConfig
        >>> model = cfx_jax.Classifier(
        ...     params=jax.random.normal(jax.random.key(0), (3, 1000)),
        ...     apply=lambda params, images: 9 * images.mean((1, 2)) @ params,
        ...     image_size=(8, 8),
        ...     name="colours",
        ... )
        >>> config = Config(
        ...     data=DataConfig(max_examples=1),
        ...     explain=ExplainConfig(num_steps=2, mask_size=4),
        ...     generator=GeneratorConfig("grey"),
        ... )
        >>> workdir = tempfile.mkdtemp()
        >>> cfx_jax.run(config, workdir, classifier=model)
        >>> RecordReader(workdir).read("ssr_mask_logits").shape
        (1, 4, 4)
    """
    config.validate()
    stop = stop or StopRequest()
    storage = Storage(workdir)  # Rejects an unknown kind of address before models are loaded.
    with RunLog() as log:
        config = registry.name_given_models(config, classifier, generator)
        config = registry.resolve_precision(config)
        data.check_there(config.data)
        data.check_output_folder(config.data, workdir, is_of_run=True)
        models = registry.load_models(config, classifier, generator)
        settings = config.explain.settings()
        registry.check_models(*models, config.explain)
        shape = registry.image_shape(models[0])
        source = open_examples(config, models[0])
        fields = make_fields(config, source.ids, shape[:2])
        manifest = make_manifest(config, settings, source, *models)
        size, attributes = config.batch.unit_size, make_attributes(models[0])
        with _open_records(workdir, manifest, fields, source, size, attributes) as writer:
            reader = RecordReader(workdir)
            units = _find_units(writer, reader, source)
            if units:
                log.begin(storage, jax.process_index())
            steps = len(config.explain.results) * settings.num_steps
            with (
                ProgressBar(sum(map(len, units.values())), steps, shown=cluster.is_first()) as bar,
                _Writing(writer, fields, Costs(storage, reader.num_units), bar, stop) as write,
            ):
                if units:
                    key = jax.random.key(config.seed)
                    solver = Solver(
                        key,
                        *models,
                        settings,
                        config.explain.objectives,
                        shape,
                        cluster.devices_for(models[0]),
                        config.explain.contrast,
                        has_allowed=source.open_allowed is not None,
                    )
                    num_tasks = sum(map(len, units.values())) * len(config.explain.objectives)
                    _compile(solver, config.batch, num_tasks)
                    resize = data.resize_for(config.data, models[0])

                    def jobs(units: Iterable[tuple[int, range]]) -> _Jobs:
                        loaded = load_units(source, units, shape=shape, resize=resize)
                        return _name_targets(
                            loaded, models[0], config.explain.contrast, settings.mask_size
                        )

                    def on_progress(objective: str, steps: int, value: float) -> None:
                        stop.check()
                        bar.update(objective, steps, value)

                    _explain(units, jobs, solver, write, on_progress)
        cluster.wait_for_units(reader, range(reader.num_units), stop)
    _check_readable(reader, config)


def open_examples(config: Config, classifier: Classifier) -> data.Source:
    """Opens the examples of a run, one per image and class to explain.

    Args:
        config: configuration of the run; its sections `data` and `explain` are read.
        classifier: the model to explain; it determines the classes of the labels and the image
            size.

    Raises:
        ConfigError: the data are missing, or the classifier has no such class.
    """
    source, explain = data.open_source(config.data, classifier), config.explain
    if not explain.target and explain.top_classes is None:
        return source
    images = np.zeros((1, *(classifier.image_size or ()), classifier.channels), np.float32)
    num_classes = count_classes(classifier, images)
    if explain.top_classes is None:
        target = data.find_class(explain.target, classifier, num_classes)
        return dataclasses.replace(source, target=lambda index: target)
    if explain.top_classes > num_classes:
        raise ConfigError(
            f"explain.top_classes is {explain.top_classes}, but {classifier.name!r} has only "
            f"{num_classes} classes"
        )
    return data.expand_top_classes(source, explain.top_classes)


def _open_records(
    workdir: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    fields: Sequence[Field],
    source: data.Source,
    unit_size: int,
    attributes: Mapping[str, Any],
) -> RecordWriter:
    """Opens the records of a run for writing; creates them if there are none."""
    try:
        return RecordWriter(
            workdir,
            manifest,
            fields,
            num_examples=len(source),
            unit_size=unit_size,
            host=jax.process_index(),
            num_hosts=jax.process_count(),
            ids=source.ids,
            attributes=attributes,
            informative=INFORMATIVE,
        )
    except ManifestMismatchError as error:
        if not (other := name_other_id(workdir, source.ids)):
            raise
        differences, _, remedy = str(error).rpartition("\n")
        raise ManifestMismatchError(f"{differences}\n  {other}\n{remedy}") from error


def _find_units(
    writer: RecordWriter, reader: RecordReader, source: data.Source
) -> dict[int, range]:
    """Returns the units that this host must explain; rejects data that have changed."""
    now = {"label": source.label, "digest": source.digest}
    for unit in check_same_data(reader, source.ids, now):
        writer.forget(unit)
    return {unit: range(*writer.unit_range(unit)) for unit in writer.missing_units()}


def _check_readable(reader: RecordReader, config: Config) -> None:
    """Raises `ConfigError` if no image of a run could be read."""
    status = reader.read(f"{config.explain.objectives[0]}_status")
    if (status == Status.UNREADABLE).all():
        raise ConfigError(
            f"0 of {len(status)} images readable; the warnings above, and the file log in the "
            "workdir, give the reason for each"
        )


def _compile(solver: Solver, config: BatchConfig, num_tasks: int) -> None:
    most = math.ceil(min(config.unit_size, num_tasks) / solver.num_devices)
    if config.per_device_batch_size is None:
        needed = compile_to_fit(solver, most)
    else:
        needed = compile_or_halve(solver, min(config.per_device_batch_size, most))
    size = solver.per_device_batch_size
    _logger.info("batch size: %d on a device, in %.1f GiB of its memory", size, needed / 2**30)


def _explain(
    units: dict[int, range],
    jobs: Callable[[Iterable[tuple[int, range]]], _Jobs],
    solver: Solver,
    write: "_Writing",
    on_progress: Callable[[str, int, float], None],
) -> None:
    """Explains units and removes them from `units`; halves the batch if the memory runs out."""
    while units:
        begun = time.monotonic()
        try:
            for examples, explanations in solver.stream(jobs(list(units.items())), on_progress):
                begun, before = time.monotonic(), begun
                cost = Cost(begun - before, solver.num_devices, jax.process_count())
                write(examples, explanations, cost)
                del units[examples.unit]
        except jax.errors.JaxRuntimeError as error:
            size = half_batch(solver.per_device_batch_size, error)
        # Compile after `except`, when the error, and the arrays of the batch to which it refers,
        # are released.
        if units:
            compile_or_halve(solver, size)
    _logger.info("devices idle for at most %.1f %% of the time", 100 * solver.idle_share)


def _name_targets(
    loaded: Iterable[Examples], classifier: Classifier, contrast: int | None, mask_size: int
) -> _Jobs:
    """Yields examples with their images and targets; rejects labels that are not classes.

    Logs images that are unreadable or without an allowed cell, the check of the classifier and, at
    the end, the number of targets that equal the contrast.
    """
    num_classes, same = 0, list[str]()
    for examples in loaded:
        for problem in examples.problems:
            _logger.warning("unreadable image, recorded as such: %s", problem)
        if examples.allowed is not None:
            for row in examples.readable[find_empty(examples.allowed, mask_size)]:
                _logger.warning(
                    "no cell of the mask lies in the allowed pixels of %s, so its region is empty",
                    examples.ids[row],
                )
        if examples.readable.size and not num_classes:
            images = to_floats(examples.pixels[:2])
            _check(classifier, images)
            num_classes = count_classes(classifier, images)
        outside = examples.labels[examples.readable] >= num_classes
        if outside.any():
            row = examples.readable[np.argmax(outside)]
            raise ConfigError(
                f"example {examples.ids[row]!r} has label {examples.labels[row]}, but classifier "
                f"{classifier.name!r} has classes 0 to {num_classes - 1}"
            )
        targets = examples.targets[examples.readable]
        if contrast is not None:
            rows = examples.readable[targets == contrast]
            same += [examples.ids[row] for row in rows]
        yield (
            examples,
            Images(examples.pixels, targets, examples.identities, examples.allowed),
        )
    if same:
        _logger.warning(
            "explain.contrast is the label of %d examples, the first is %r: a class cannot be its "
            "own contrast, so they count as misclassified",
            len(same),
            same[0],
        )


class _Writing:
    """Writer of units in a separate thread, so that no device waits for a disk."""

    def __init__(
        self,
        writer: RecordWriter,
        fields: Sequence[Field],
        costs: Costs,
        bar: ProgressBar,
        stop: StopRequest,
    ) -> None:
        self._writer = writer
        self._fields = fields
        self._costs = costs
        self._bar = bar
        self._stop = stop
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: collections.deque[concurrent.futures.Future[None]] = collections.deque()

    def __enter__(self) -> "_Writing":
        return self

    def __call__(
        self, examples: Examples, explanations: Mapping[str, Explanation], cost: Cost
    ) -> None:
        """Queues a unit for writing; waits if the queue is full, and raises if a write failed."""
        self._pending.append(self._pool.submit(self._write, examples, explanations, cost))
        while len(self._pending) > _UNITS_IN_WRITING:
            self._pending.popleft().result()

    def __exit__(self, *_: object) -> None:
        # Write the queue also after an error, so that units already explained are not lost.
        self._pool.shutdown()
        for future in self._pending:
            future.result()

    def _write(
        self, examples: Examples, explanations: Mapping[str, Explanation], cost: Cost
    ) -> None:
        values = make_values(self._fields, examples, explanations)
        # Write the cost first, because `write_unit` marks the unit as complete.
        self._costs.write(examples.unit, cost)
        self._writer.write_unit(examples.unit, values)
        self._stop.num_written += 1
        self._bar.finish_images(len(examples.ids))


def _check(classifier: Classifier, images: np.ndarray) -> None:
    """Checks the classifier and logs its problems in one line; the run continues in any case."""
    findings = classifier.check(images)
    if findings:
        _logger.warning("classifier checked: %s", "; ".join(map(str, findings)))
    else:
        _logger.info("classifier checked: ok")
