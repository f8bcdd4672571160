"""The manifest of a run, which identifies it: a resumed run must match it."""

import dataclasses
from typing import Any

from cfx_jax import data, registry
from cfx_jax.classifiers import Classifier
from cfx_jax.config import Config
from cfx_jax.fido import Settings, Status
from cfx_jax.generators import Generator
from cfx_jax.runs import cluster

INFORMATIVE = (
    "config.explain.mode",
    *(f"config.explain.{field.name}" for field in dataclasses.fields(Settings)),
)
"""Paths in a manifest that are not compared: the settings in the config, because the key
`settings` contains them. So it does not matter whether a value is the mode's or given."""


def make_manifest(
    config: Config,
    settings: Settings,
    source: data.Source,
    classifier: Classifier,
    generator: Generator,
) -> dict[str, Any]:
    """Returns the values that identify a run; only `environment` may differ when it is resumed.

    Args:
        config: configuration of the run, with a resolved precision.
        settings: settings of every image.
        source: source of the examples, one per image and class to explain.
        classifier: loaded classifier.
        generator: loaded generator.
    """
    recorded = dataclasses.asdict(config)
    del recorded["report"]["max_images"], recorded["batch"]["per_device_batch_size"]
    return {
        "config": recorded,
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
        "environment": cluster.environment(),
    }
