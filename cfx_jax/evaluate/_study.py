"""The inputs of an evaluation: runs, their images and classifier, and the parts to measure."""

import dataclasses
import functools
import itertools
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from cfx_jax import data, registry
from cfx_jax.baselines import unsupported_reason
from cfx_jax.classifiers import Classifier
from cfx_jax.config import ClassifierConfig, ConfigError, DataConfig, ExplainConfig
from cfx_jax.data import Examples
from cfx_jax.evaluate._boxes import find_boxes
from cfx_jax.evaluate._transfer_models import EvaluationModels, load_evaluation_models
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.measures import Baseline, EvaluationUnit, Joint, Learnt, Part, Reference
from cfx_jax.evaluate.scoring import Scorer
from cfx_jax.records import RecordsError
from cfx_jax.runs import Explanations, Images, check_same_data, cluster, name_other_id, runner

_Section = TypeVar("_Section", DataConfig, ClassifierConfig, ExplainConfig)
_logger = logging.getLogger(__name__)


def open_runs(folders: Sequence[str]) -> list[Learnt]:
    """Opens runs whose masks are evaluated.

    Args:
        folders: folders of the runs, finished or not; the last part of a path names a run.

    Returns:
        One part for each objective of each run.

    Raises:
        ConfigError: two runs have the same name.
        FileNotFoundError: there is no run in a folder.
        RecordsError: a folder contains something other than a run, or is damaged.
    """
    names = [pathlib.PurePath(folder).name for folder in folders]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"--records: the folders end in {', '.join(names)}; expected unique names, because "
            "tables show them"
        )
    parts = []
    for name, folder in zip(names, folders, strict=True):
        reader = Explanations(folder)
        if (done := reader.complete.sum()) < reader.num_examples:
            _logger.info(
                "%s: %d of %d images are explained by now", folder, done, reader.num_examples
            )
        parts += [Learnt(name, reader, objective) for objective in reader.objectives]
    return parts


def adopt(
    config: EvaluateConfig, stored: dict[str, Any], images_path: str, has_classifier: bool
) -> EvaluateConfig:
    """Replaces data, classifier, precision, mask and unit size of a config by those of a run.

    Args:
        config: configuration of the evaluation; a warning lists fields that differ from the run.
        stored: config of the run.
        images_path: current path of the images; "" = unchanged.
        has_classifier: whether the caller passes the classifier as an object.

    Returns:
        The config with the data, classifier, precision, mask and unit size of the run.

    Raises:
        ConfigError: the run explains a classifier object, which is missing now, or the images do
            not exist.
        RecordsError: the run is of another version.
    """
    # For a model object, the manifest contains only a name.
    name = stored["classifier"]["name"]
    if not has_classifier and not registry.is_loadable(name):
        raise ConfigError(
            f"the run explains a classifier {name!r} that was given in Python: evaluate it there, "
            "cfx_jax.evaluate.evaluation.evaluate(..., classifier=...)"
        )
    recorded = _read_section(DataConfig, stored, "data")
    adopted = dataclasses.replace(
        config,
        data=dataclasses.replace(recorded, path=images_path or recorded.path),
        classifier=_read_section(ClassifierConfig, stored, "classifier"),
        precision=stored["precision"],
        explain=_read_section(ExplainConfig, stored, "explain"),
        batch=dataclasses.replace(config.batch, unit_size=stored["batch"]["unit_size"]),
    )
    try:
        data.check_there(adopted.data)
    except ConfigError as error:
        raise ConfigError(
            f"the images of the run have moved ({error}); give their new folder with --images"
        ) from error
    if unused := _name_unused(config, adopted):
        _logger.warning(
            "%s: ignored, because the manifest of the run defines what was explained, and how%s",
            ", ".join(unused),
            "; give the new folder of the images with --images" if "data.path" in unused else "",
        )
    return adopted


def _read_section(kind: type[_Section], stored: dict[str, Any], name: str) -> _Section:
    """Reads a section of the config of a run, which must have the fields of this version."""
    known = {field.name for field in dataclasses.fields(kind)}
    if other := known ^ stored[name].keys():
        raise RecordsError(
            f"the config of the run lacks, or has in addition, {', '.join(sorted(other))} in its "
            f"section {name}; expected a run of this version: repeat it in another --workdir"
        )
    # JSON stores tuples as lists.
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in stored[name].items()
    }
    return kind(**values)


def _name_unused(config: EvaluateConfig, adopted: EvaluateConfig) -> list[str]:
    """Returns the names of the fields that a config sets, but whose values the run replaces."""
    named_fields = []
    for section in ("data", "classifier", "explain"):
        given, default, taken = (
            dataclasses.asdict(getattr(of, section)) for of in (config, EvaluateConfig(), adopted)
        )
        named_fields += [
            f"{section}.{name}"
            for name, value in given.items()
            if value not in (default[name], taken[name])
        ]
    return named_fields


@dataclasses.dataclass(frozen=True)
class Study:
    """The values that all parts of an evaluation share, and the parts."""

    config: EvaluateConfig
    source: data.Source
    shape: tuple[int, int, int]
    resize: data.Resize
    scorer: Scorer
    models: EvaluationModels
    manifest: dict[str, Any]
    learnt: Sequence[Learnt]
    content: Callable[[int], int]

    @classmethod
    def open(
        cls,
        config: EvaluateConfig,
        learnt: Sequence[Learnt],
        classifier: Classifier | None,
        transfer_classifiers: Sequence[Classifier],
    ) -> "Study":
        """Loads the data and the models, and checks that the runs belong to them.

        Raises:
            ConfigError: a run has other images or another classifier, or a transfer classifier does
                not fit.
            RecordsError: images or labels have changed since a run explained them.
        """
        classifier, generator = registry.load_models(config, classifier)
        source = runner.open_examples(config, classifier)
        registry.check_models(classifier, generator, config.explain)
        shape = registry.image_shape(classifier)
        manifest: dict[str, Any] = {
            "dataset": {"num_examples": len(source), "fingerprint": source.fingerprint},
            "classifier": registry.identity(classifier),
        }
        _check_same(learnt, manifest, source)
        contrast = config.explain.contrast
        for part in learnt:
            recorded = part.records.option("contrast")
            if recorded != contrast:
                raise ConfigError(
                    f"{part.name}: the run has the contrast {recorded}, not {contrast}; expected "
                    "the same question in all runs that are compared"
                )
        config = _without_unsupported(config, classifier, shape)
        models = load_evaluation_models(config, classifier, generator, shape, transfer_classifiers)
        scorer = Scorer(
            jax.random.key(config.seed),
            classifier,
            models.infills,
            models.baseline_infill,
            config.curve_steps,
            config.batch.per_device_batch_size or 1,
            tuple(models.classifiers.values()),
            contrast,
        )
        manifest |= models.identity() | {
            "contrast": contrast,
            "resize": config.data.resize,
            "seed": config.seed,
            "precision": config.precision,
            "curve_steps": config.curve_steps,
            "environment": cluster.environment(),
        }
        # Compute the digest of each image once, for all parts.
        content = functools.cache(source.content)
        resize = data.resize_for(config.data, classifier)
        return cls(config, source, shape, resize, scorer, models, manifest, learnt, content)

    @property
    def parts(self) -> list[Part]:
        """The parts to measure, in the order of the tables."""
        config = self.config
        parts: list[Part] = [Reference()]
        parts += [
            Baseline(name, config.baseline_infill, config.sanity_images)
            for name in config.baselines
        ]
        parts += self.learnt
        # Pairs of the same run; the order of the objectives is SSR, then SDR.
        pairs = itertools.combinations(self.learnt, 2)
        return parts + [Joint(ssr, sdr) for ssr, sdr in pairs if ssr.run == sdr.run]

    def ready_units(self) -> list[int]:
        """Returns the units that all runs have explained: all methods measure the same images."""
        complete = np.ones(len(self.source), bool)
        for records in {part.run: part.records for part in self.learnt}.values():
            complete &= records.complete
        starts = np.arange(0, len(complete), self.config.batch.unit_size)
        ready: list[int] = np.flatnonzero(np.logical_and.reduceat(complete, starts)).tolist()
        return ready

    def prepare(self, examples: Examples, indices: range) -> EvaluationUnit:
        """Classifies the readable examples of a unit, and finds their boxes."""
        targets = examples.targets[examples.readable]
        images = Images(examples.pixels, targets, examples.identities)
        prediction = self.scorer.classify(images)
        readable = [indices[row] for row in examples.readable]
        boxes = find_boxes(self.source, readable, self.shape[:2], self.resize)
        images = images._replace(targets=prediction.target)
        return EvaluationUnit(examples, indices, images, prediction, boxes)


def _without_unsupported(
    config: EvaluateConfig, classifier: Classifier, shape: tuple[int, int, int]
) -> EvaluateConfig:
    """Removes the methods that cannot explain a classifier, and logs them."""
    possible = []
    for name in config.baselines:
        if reason := unsupported_reason(name, classifier, shape):
            _logger.warning("baselines: %s is left out: %s", name, reason)
        else:
            possible.append(name)
    return dataclasses.replace(config, baselines=tuple(possible))


def _check_same(learnt: Sequence[Learnt], manifest: dict[str, Any], source: data.Source) -> None:
    for part in learnt:
        for what, expected in manifest.items():
            stored = {key: part.records.manifest[what].get(key) for key in expected}
            if stored != expected:
                other = name_other_id(part.records.location, source.ids)
                raise ConfigError(
                    f"{part.name}: the run has {what} {stored}, not {expected}; expected the same "
                    "images and classifier for all that is compared" + (other and f" ({other})")
                )
    remedy = (
        "Give the path of the former data with --images, or explain these in another --workdir."
    )
    # Read each label and digest once, for all runs.
    now = {"label": functools.cache(source.label), "digest": functools.cache(source.digest)}
    for records in {part.run: part.records for part in learnt}.values():
        check_same_data(records, source.ids, now, remedy)
