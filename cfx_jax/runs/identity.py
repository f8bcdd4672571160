"""What a run is known by: its manifest, which a run that is gone on with must match."""

import dataclasses
from typing import Any

from cfx_jax import data, registry
from cfx_jax.classifiers import Classifier
from cfx_jax.config import ClassifierConfig, Config, ExplainConfig
from cfx_jax.fido.explanation import Status
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import Generator
from cfx_jax.runs import cluster

# Fields of the sections `classifier` and `explain`, and of the settings, that runs of earlier
# versions have not.
_LATER = (
    "image_size",
    "channels",
    "mean",
    "std",
    "channel_order",
    "crop",
    "interpolation",
    "logits",
    "contrast",
    "top_classes",
    "smooth_scale",
    "spread",
    "perimeter_weight",
    "margin",
    "success_target",
    "sharpness",
    "look_steps",
    "patience",
)

INFORMATIVE = (
    "config.explain.mode",
    *(f"config.explain.{field.name}" for field in dataclasses.fields(Settings)),
)
"""Paths in a manifest that are not compared: what the config says of the settings of a run, for
which `settings` stands. So a run goes on whether a number is its mode's or spelled out."""


def make_manifest(
    config: Config,
    settings: Settings,
    source: data.Source,
    classifier: Classifier,
    generator: Generator,
) -> dict[str, Any]:
    """Returns what makes a run this run; only `environment` may differ when it is resumed.

    Args:
        config: the whole run, its precision settled.
        settings: of every image.
        source: of the images, one row for each question.
        classifier: as loaded.
        generator: as loaded.
    """
    asked = dataclasses.asdict(config)
    del asked["report"]["max_images"], asked["batch"]["per_device_batch_size"]
    asked["explain"] = _without_later(asked["explain"], config.explain)
    asked["classifier"] = _without_later(asked["classifier"], config.classifier)
    described = dataclasses.asdict(settings) | {"relaxation": settings.relaxation.value}
    return {
        "config": asked,
        "settings": _without_later(described, settings),
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


def _without_later(
    described: dict[str, Any], fields: ClassifierConfig | ExplainConfig | Settings
) -> dict[str, Any]:
    """Leaves out what came later while it has its default, with which nothing has changed.

    So a run of an earlier version can be gone on with.
    """
    later = described.keys() & set(_LATER)
    unchanged = {name for name in later if described[name] == getattr(type(fields), name)}
    return {name: value for name, value in described.items() if name not in unchanged}
