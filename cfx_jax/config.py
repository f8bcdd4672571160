"""The typed configuration of a run, its defaults (the demo) and its validation.

A config file defines `get_config() -> Config`, and every field can be overridden on the command
line as `--config.section.field=value`.
"""

import dataclasses

from cfx_jax.settings import Settings, get_settings

OBJECTIVES = ("ssr", "sdr", "both")
SOURCES = ("bundled", "folder", "tfds")
RESIZES = ("crop", "stretch")
_MAX_SEED = 2**32 - 1


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the field and what it accepts."""


@dataclasses.dataclass
class DataConfig:
    """Where the images come from.

    Attributes:
        source: `bundled` (photographs that come with scikit-image), `folder` or `tfds`.
        path: the image folder, or the TFDS data directory ("" = the default of TFDS).
        name: name of the TFDS dataset.
        split: split of the TFDS dataset.
        resize: `crop` (short side to 256/224 of the size, centre crop) or `stretch`.
        max_examples: explain only the first so many.
    """

    source: str = "bundled"
    path: str = ""
    name: str = ""
    split: str = ""
    resize: str = "crop"
    max_examples: int | None = None


@dataclasses.dataclass
class ClassifierConfig:
    """The classifier to explain: its name and the path of its weights ("" = the packaged ones)."""

    name: str = "efficientnet_lite0"
    weights: str = ""


@dataclasses.dataclass
class GeneratorConfig:
    """The in-filling generator, by name."""

    name: str = "local_mean"


@dataclasses.dataclass
class ExplainConfig:
    """What to learn and how; a field left at None keeps the value of the mode.

    Attributes:
        objective: `ssr`, `sdr` or `both`.
        mode: `fast`, `paper` or `bbmp`, see `cfx_jax.settings.MODES`.
        num_steps: optimiser steps.
        num_samples: masks drawn a step.
        learning_rate: of Adam.
        sparsity_weight: lambda, cost of one pixel.
        tv_weight: tau, cost of the total variation.
        mask_size: cells along each side of the mask.
    """

    objective: str = "both"
    mode: str = "fast"
    num_steps: int | None = None
    num_samples: int | None = None
    learning_rate: float | None = None
    sparsity_weight: float | None = None
    tv_weight: float | None = None
    mask_size: int | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives to learn, in order."""
        return ("ssr", "sdr") if self.objective == "both" else (self.objective,)

    def settings(self) -> Settings:
        """The settings of the mode with this section's overrides.

        Raises:
            ValueError: a value is out of range or the mode is unknown.
        """
        fields = dataclasses.asdict(self)
        del fields["objective"], fields["mode"]
        overrides = {name: value for name, value in fields.items() if value is not None}
        return get_settings(self.mode, **overrides)


@dataclasses.dataclass
class BatchConfig:
    """How the work is cut.

    Attributes:
        per_device_batch_size: images optimised together on one device.
        unit_size: images written together; what a stop in the middle costs at most.
    """

    per_device_batch_size: int = 1
    unit_size: int = 1


@dataclasses.dataclass
class ReportConfig:
    """The page of a run.

    Attributes:
        save_images: keep the photographs and their in-fills in the records, for the page to show.
        max_images: show only the first so many examples.
    """

    save_images: bool = True
    max_images: int = 100


@dataclasses.dataclass
class Config:
    """A whole run. The defaults are the demo: three photographs, both objectives."""

    seed: int = 0
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    classifier: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    generator: GeneratorConfig = dataclasses.field(default_factory=GeneratorConfig)
    explain: ExplainConfig = dataclasses.field(default_factory=ExplainConfig)
    batch: BatchConfig = dataclasses.field(default_factory=BatchConfig)
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)

    def validate(self) -> None:
        """Checks every field that can be checked without touching data or weights.

        Raises:
            ConfigError: names the field, what it was and what it accepts.
        """
        _choice("data.source", self.data.source, SOURCES)
        _choice("data.resize", self.data.resize, RESIZES)
        _choice("explain.objective", self.explain.objective, OBJECTIVES)
        if self.data.max_examples is not None:
            _at_least("data.max_examples", self.data.max_examples, 1)
        _at_least("batch.per_device_batch_size", self.batch.per_device_batch_size, 1)
        _at_least("batch.unit_size", self.batch.unit_size, 1)
        _at_least("report.max_images", self.report.max_images, 0)
        _at_least("seed", self.seed, 0)
        # JAX reads 32 bits: a larger seed would draw the noise of a smaller one, or fail.
        if self.seed > _MAX_SEED:
            raise ConfigError(f"seed is {self.seed}; expected at most {_MAX_SEED}")
        try:
            self.explain.settings()
        except ValueError as error:
            raise ConfigError(f"explain: {error}") from error


def check_field(path: str) -> None:
    """Checks that a config has a field.

    Args:
        path: names joined by dots, for example `explain.num_steps`.

    Raises:
        ConfigError: it has none; the message lists those it has there.
    """
    section = Config()
    for name in path.split("."):
        fields = dataclasses.fields(section) if dataclasses.is_dataclass(section) else ()
        if name not in (known := [field.name for field in fields]):
            raise ConfigError(
                f"unknown config field config.{path}; known there: {', '.join(known) or 'none'}"
            )
        section = getattr(section, name)


def _choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{field} is {value!r}; expected one of {', '.join(choices)}")


def _at_least(field: str, value: int, minimum: int) -> None:
    if type(value) is not int or value < minimum:
        raise ConfigError(f"{field} is {value!r}; expected a whole number of at least {minimum}")
