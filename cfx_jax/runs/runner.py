"""A run: config -> data -> models -> explain on all local devices -> records.

The only module that reads a whole config. `run` is what `python -m cfx_jax.main` does. The way of
the data: `load_units` decodes a unit of examples, `Solver` explains it, `make_values` lays it out
and `RecordWriter` writes it; all of them at once, each with a unit of its own.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import importlib.metadata
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

import cfx_jax
from cfx_jax import data, registry
from cfx_jax.classifiers import Classifier
from cfx_jax.config import BatchConfig, Config, ConfigError
from cfx_jax.data import Examples, load_units
from cfx_jax.fido.checks import logits_shape
from cfx_jax.fido.explanation import Explanation, Status
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import Generator
from cfx_jax.records import Field, RecordReader, RecordWriter
from cfx_jax.runs import cluster
from cfx_jax.runs.batch_size import compile_to_fit, is_out_of_memory
from cfx_jax.runs.explanations import make_fields, make_values
from cfx_jax.runs.preemption import StopRequest
from cfx_jax.runs.progress import ProgressBar, say
from cfx_jax.runs.solver import Images, Solver

_DISTRIBUTIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorstore")
_UNITS_IN_WRITING = 2


def run(config: Config, workdir: str | os.PathLike[str], stop: StopRequest | None = None) -> None:
    """Explains every example of a dataset and writes its records.

    Where several processes run it at once (`jax.process_count()`), each explains units of its own,
    and all return when all are done.

    Args:
        config: the whole run.
        workdir: folder of the run, on a local disk or `gs://bucket/path`. One that holds an
            interrupted run of the same config is resumed; a finished one is left as it is.
        stop: looked at all the time; None never stops.

    Raises:
        ConfigError: the config, the data or the weights cannot be used.
        RecordsError: `workdir` holds a run of another config, or something else, or another run
            is writing to it.
        OSError: `workdir` cannot be written.
        StoppedError: the run was asked to stop; what is written is whole.
    """
    config.validate()
    stop = stop or StopRequest()
    source = data.open_source(config.data)
    classifier, generator = registry.load_models(config)
    settings, objectives = config.explain.settings(), config.explain.objectives
    shape = registry.image_shape(classifier, generator, settings)
    fields = make_fields(config, source.ids, settings, shape[:2])
    with RecordWriter(
        workdir,
        _manifest(config, settings, source, classifier, generator),
        fields,
        num_examples=len(source),
        unit_size=config.batch.unit_size,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
    ) as writer:
        units = {unit: range(*writer.unit_range(unit)) for unit in writer.missing_units()}
        steps = len(objectives) * settings.num_steps
        with (
            ProgressBar(sum(map(len, units.values())), steps, shown=cluster.is_first()) as bar,
            _Writing(writer, fields, bar) as write,
        ):
            if units:
                key = jax.random.key(config.seed)
                solver = Solver(key, classifier, generator, settings, objectives, shape)
                _compile(solver, config.batch)
                load = functools.partial(load_units, source, shape=shape, resize=config.data.resize)

                def on_progress(objective: str, steps: int, value: float) -> None:
                    stop.check()
                    bar.update(objective, steps, value)

                _explain(units, load, solver, classifier, write, on_progress)
        reader = RecordReader(workdir)
        cluster.wait_for_units(reader, range(reader.num_units), stop)


def _compile(solver: Solver, config: BatchConfig) -> None:
    most = math.ceil(config.unit_size / solver.num_devices)
    if config.per_device_batch_size is not None:
        solver.compile(min(config.per_device_batch_size, most))
        return
    needed = compile_to_fit(solver, most)
    if cluster.is_first():
        size = solver.per_device_batch_size
        say(f"batch size planned: {size} on a device, in {needed / 2**30:.1f} GiB of its memory")


def _explain(
    units: dict[int, range],
    load: Callable[[Iterable[tuple[int, range]]], Iterator[Examples]],
    solver: Solver,
    classifier: Classifier,
    write: "_Writing",
    on_progress: Callable[[str, int, float], None],
) -> None:
    """Explains units and takes them out of `units`; in smaller batches where memory runs out."""
    while units:
        jobs = _jobs(load(list(units.items())), classifier)
        try:
            for examples, explanations in solver.stream(jobs, on_progress):
                write(examples, explanations)
                del units[examples.unit]
        except jax.errors.JaxRuntimeError as error:
            size = solver.per_device_batch_size
            if not is_out_of_memory(error) or size == 1:
                raise
            say(f"out of memory with {size} images a device; going on with {math.ceil(size / 2)}")
            solver.compile(math.ceil(size / 2))
    say(f"devices idle for at most {solver.idle_share:.1%} of the time")


def _jobs(loaded: Iterable[Examples], classifier: Classifier) -> Iterator[tuple[Examples, Images]]:
    """Names the targets of examples: their labels, or the predicted class where there is none."""
    num_classes = 0
    for examples in loaded:
        for problem in examples.problems:
            say(f"unreadable image, recorded as such: {problem}")
        if examples.readable.size and not num_classes:
            _check(classifier, examples.images)
            num_classes = logits_shape(classifier, examples.images[:1])[-1]
        outside = examples.labels[examples.readable] >= num_classes
        if outside.any():
            row = examples.readable[np.argmax(outside)]
            raise ConfigError(
                f"example {examples.ids[row]!r} has label {examples.labels[row]}, but classifier "
                f"{classifier.name!r} has classes 0 to {num_classes - 1}"
            )
        targets = examples.labels[examples.readable]
        yield examples, Images(examples.images, targets, examples.identities)


class _Writing:
    """Writes units in a thread of its own, so that no device waits for a disk."""

    def __init__(self, writer: RecordWriter, fields: Sequence[Field], bar: ProgressBar) -> None:
        self._writer = writer
        self._fields = fields
        self._bar = bar
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: collections.deque[concurrent.futures.Future[None]] = collections.deque()

    def __enter__(self) -> "_Writing":
        return self

    def __call__(self, examples: Examples, explanations: Mapping[str, Explanation]) -> None:
        """Takes a unit over; waits, and fails, if an earlier one cannot be written."""
        self._pending.append(self._pool.submit(self._write, examples, explanations))
        while len(self._pending) > _UNITS_IN_WRITING:
            self._pending.popleft().result()

    def __exit__(self, *_: object) -> None:
        # Also on the way out of an error: what is explained is not lost.
        self._pool.shutdown()
        for future in self._pending:
            future.result()

    def _write(self, examples: Examples, explanations: Mapping[str, Explanation]) -> None:
        values = make_values(self._fields, examples, explanations)
        self._writer.write_unit(examples.unit, values)
        self._bar.finish_images(len(examples.ids))


def _check(classifier: Classifier, images: np.ndarray) -> None:
    """Says in one line what is wrong with the classifier; the run goes on."""
    findings = classifier.check(images)
    if not findings:
        logging.info("classifier checked: ok")
        return
    line = f"classifier checked: {'; '.join(map(str, findings))}"
    logging.warning("%s", line)
    if not logging.level_warning():  # As on the command line, which switches absl off.
        say(line)


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
        "classifier": registry.identity(classifier),
        "generator": registry.identity(generator),
        "class_names": list(classifier.class_names) or None,
        "objectives": list(config.explain.objectives),
        "status_names": [status.name.lower() for status in Status],
        "environment": environment(config.batch),
    }


def environment(config: BatchConfig) -> dict[str, Any]:
    """What a manifest keeps of where it ran; it may differ when a run is resumed."""
    return {
        "versions": {"cfx_jax": cfx_jax.__version__}
        | {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS},
        "devices": [str(device) for device in jax.local_devices()],
        "per_device_batch_size": config.per_device_batch_size,
    }
