"""Evaluates runs, and baselines on the same images: writes stores of numbers, then tables.

With `--records`, given once for each run, the masks of finished or unfinished runs are evaluated.
With only a config, the runs that it describes, one per in-fill, are first done in folders of the
workdir. In both cases, baselines are evaluated on the same images. The workdir then contains

    scores/NAME/     records of each method: every number of every image
    table.md, table.csv, table.json, images.csv, *.png

Data flow: `load_units` decodes a unit, the `Scorer` classifies it, each `Part` that has no numbers
for it measures it, and the `RecordWriter` of the part writes the numbers. So the same command
resumes an evaluation. Finally, `_tables` reads the numbers.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Sequence

import jax
import numpy as np

from cfx_jax import data, numerics, registry
from cfx_jax.classifiers import Classifier
from cfx_jax.config import Config, GeneratorConfig
from cfx_jax.data import Examples, load_units
from cfx_jax.evaluate import _tables
from cfx_jax.evaluate._snapshot import Snapshot
from cfx_jax.evaluate._study import Study, adopt, open_runs
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.measures import EvaluationUnit, Part
from cfx_jax.records import Field, RecordReader, RecordWriter, Storage, encode_ids
from cfx_jax.report import page
from cfx_jax.runs import Bar, StopRequest, check_same_data, cluster

_logger = logging.getLogger(__name__)


@numerics.jax_config(numerics.RUN_CONFIG)
def evaluate(
    config: EvaluateConfig,
    workdir: str | os.PathLike[str],
    records: Sequence[str] = (),
    images_path: str = "",
    stop: StopRequest | None = None,
    *,
    classifier: Classifier | None = None,
    transfer_classifiers: Sequence[Classifier] = (),
) -> str:
    """Evaluates runs, and baselines on the images of the runs.

    Args:
        config: configuration of the evaluation; with `records` its data, classifier, precision,
            mask and unit size are taken from the first run.
        workdir: folder of the evaluation, on a local disk or in a bucket; an interrupted
            evaluation in it is resumed.
        records: folders of runs of the same images and classifier; if empty, `config` is run.
        images_path: with `records`, the current path of the images; "" = unchanged.
        stop: stop request, checked between units; None never stops.
        classifier: replaces the classifier of the config, or of the first of `records`.
        transfer_classifiers: transfer classifiers in addition to those of the config.

    Returns:
        The tables as Markdown, over the images that all runs have explained.

    Raises:
        ConfigError: the config, the data or the weights cannot be used.
        RecordsError: a folder contains something other than a run, an evaluation of another config,
            or results of other data.
        FileNotFoundError: there is no run in a folder of `records`.
        OSError: `workdir` cannot be written.
        StoppedError: the evaluation was requested to stop; every written unit is complete.
    """
    config.validate()
    config = registry.resolve_precision(config)
    stop = stop or StopRequest()
    Storage(workdir)  # Rejects an unknown kind of address before models are loaded.
    if not records:
        data.check_output_folder(config.data, workdir)
    runs = list(records) or _run_all(config, str(workdir), stop, classifier)
    learnt = open_runs(runs)
    if records:
        stored = learnt[0].records.manifest["config"]
        config = adopt(config, stored, images_path, has_classifier=classifier is not None)
        data.check_output_folder(config.data, workdir)
    study = Study.open(config, learnt, classifier, transfer_classifiers)
    snapshot = Snapshot(f"{workdir}/scores")
    folders = {part.name: f"{workdir}/scores/{part.name}" for part in study.parts}
    with contextlib.ExitStack() as stack:
        stores = [
            stack.enter_context(contextlib.closing(_Store(part, study, folders[part.name])))
            for part in study.parts
        ]
        for units in snapshot.share(study.ready_units(), stop):
            _measure(units, study, stores, stop)
    table = ""
    if cluster.is_first():
        infills = [infill.name for infill in study.models.infills]
        table = _tables.write_tables(workdir, folders, infills, [*study.models.classifiers], learnt)
    snapshot.finish()
    return table


class _Store:
    """The records of one part, created or resumed.

    Attributes:
        missing: units of this host that are not measured yet.
    """

    def __init__(self, part: Part, study: Study, folder: str) -> None:
        self._part, self._scorer = part, study.scorer
        width = max(len(text.encode()) for text in study.source.ids)
        about = [Field("id", "uint8", (width,), ("id_byte",)), Field("content", "uint64")]
        self._fields = about + part.fields(study.scorer)
        self._writer = RecordWriter(
            folder,
            {"part": part.identity()} | study.manifest,
            self._fields,
            num_examples=len(study.source),
            unit_size=study.config.batch.unit_size,
            host=jax.process_index(),
            num_hosts=jax.process_count(),
            ids=study.source.ids,
        )
        self.close = self._writer.close
        try:
            now = {"content": study.content}
            for unit in check_same_data(RecordReader(folder), study.source.ids, now):
                self._writer.forget(unit)
            self.missing = set(self._writer.missing_units())
        except BaseException:
            self.close()
            raise

    def measure(
        self, examples: Examples, unit: EvaluationUnit | None, content: Sequence[int]
    ) -> None:
        """Measures a unit and writes it, with its content digests; None = no readable example."""
        measured = self._part.measure(unit, self._scorer) if unit else {}
        values = _lay_out(self._fields, examples, measured)
        values["content"] = np.array(content, np.uint64)
        self._writer.write_unit(examples.unit, values)
        self.missing.remove(examples.unit)


def _measure(
    units: Sequence[int], study: Study, stores: Sequence[_Store], stop: StopRequest
) -> None:
    """Measures units with all parts that have not measured them; decodes each image once."""
    size, total = study.config.batch.unit_size, len(study.source)
    lacked = set().union(*(store.missing for store in stores))
    ranges = {
        unit: range(unit * size, min((unit + 1) * size, total)) for unit in units if unit in lacked
    }
    loaded = load_units(study.source, ranges.items(), study.shape, study.resize)
    ready = sum(min(size, total - unit * size) for unit in units)
    done = ready - sum(map(len, ranges.values()))
    with Bar(total=ready, initial=done, unit="img", disable=not cluster.is_first()) as bar:
        for examples in loaded:
            stop.check()
            is_readable = len(examples.readable) > 0
            unit = study.prepare(examples, ranges[examples.unit]) if is_readable else None
            content = [study.content(index) for index in ranges[examples.unit]]
            for store in stores:
                if examples.unit in store.missing:
                    store.measure(examples, unit, content)
            stop.num_written += 1
            bar.update(len(examples.ids))


def _lay_out(
    fields: Sequence[Field], examples: Examples, measured: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Converts a unit to record fields; an unreadable example has an id but no numbers."""
    values = {}
    for field in fields:
        blank = {"f": np.nan, "i": -1}.get(np.dtype(field.dtype).kind, 0)
        values[field.name] = np.full((len(examples.ids), *field.shape), blank, field.dtype)
        if field.name in measured:
            values[field.name][examples.readable] = measured[field.name]
    values["id"] = encode_ids(examples.ids, values["id"].shape[1])
    return values


def _run_all(
    config: EvaluateConfig, workdir: str, stop: StopRequest, classifier: Classifier | None
) -> list[str]:
    """Does or resumes the runs of a config, and returns their folders."""
    fields = [field.name for field in dataclasses.fields(Config)]
    folders = []
    for name in config.infills:
        run = Config(**{field: getattr(config, field) for field in fields})
        # The weights in the config belong to the generator that it names.
        if name != config.generator.name:
            run.generator = GeneratorConfig(name)
        folders.append(f"{workdir}/runs/{name}")
        _logger.info("explaining with %s", name)
        page.run_with_page(run, folders[-1], stop, classifier=classifier)
    return folders
