"""The typed configuration of a run, its defaults (the demo) and its validation.

A config file defines `get_config() -> Config`, and every field can be overridden on the command
line as `--config.section.field=value`.
"""

import dataclasses
from typing import Any

from cfx_jax.classifiers import NORMALIZATIONS
from cfx_jax.settings import Settings, get_settings
from cfx_jax.training import TrainSettings

OBJECTIVES = ("ssr", "sdr", "both")
SOURCES = ("bundled", "folder", "npz", "tfds")
RESIZES = ("crop", "cover", "stretch")
PRECISIONS = ("float32", "bfloat16")
MODELS = ("gated_unet", "gated_unet_stochastic", "contextual_attention", "vae", "vae_digits")
# Those whose layers for inference are all there is to train: no batch normalisation, no dropout.
TRAINED_CLASSIFIERS = ("mnist_cnn",)
_MAX_SEED = 2**32 - 1


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the field and what it accepts."""


@dataclasses.dataclass
class DataConfig:
    """Where the images come from.

    Attributes:
        source: `bundled` (photographs that come with scikit-image), `folder`, `npz` or `tfds`.
        path: the image folder, the .npz file, or the TFDS data directory ("" = the default of
            TFDS). A folder may have a manifest.csv with the columns `file`, `label`, `boxes` and
            `split`. An .npz file has uint8 `images` `[N, H, W]`, `[N, H, W, 1]` or `[N, H, W, 3]`
            and may have `labels` and `ids`; `x` and `y` are understood, too.
        name: name of the TFDS dataset.
        split: split of the TFDS dataset; of a folder, the rows of manifest.csv with this `split`;
            of an .npz file, the arrays that end in `_SPLIT`, such as `x_train` and `y_train`.
        resize: `crop` (short side to 256/224 of the size, centre crop), `cover` (short side to the
            size, centre crop) or `stretch`.
        class_folders: the sub-folders of the image folder are the classes, numbered in the order
            of their names, as ImageNet has them.
        max_examples: explain only the first so many.
    """

    source: str = "bundled"
    path: str = ""
    name: str = ""
    split: str = ""
    resize: str = "crop"
    class_folders: bool = False
    max_examples: int | None = None


@dataclasses.dataclass
class ClassifierConfig:
    """The classifier to explain.

    Attributes:
        name: of its architecture.
        weights: path of its weights ("" = the packaged ones).
        class_names: path of a text file with one class name a line ("" = the published ones).
        normalization: a name of `cfx_jax.classifiers.NORMALIZATIONS` ("" = the published one).
    """

    name: str = "efficientnet_lite0"
    weights: str = ""
    class_names: str = ""
    normalization: str = ""


@dataclasses.dataclass
class GeneratorConfig:
    """The in-filling generator: its name and the path of its weights ("" = the packaged ones)."""

    name: str = "gated_unet"
    weights: str = ""


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
        initial_keep: probability of keeping each cell at the start.
        mask_size: cells along each side of the mask.
        block_size: side of the squares that are kept or dropped together, in pixels.
    """

    objective: str = "both"
    mode: str = "fast"
    num_steps: int | None = None
    num_samples: int | None = None
    learning_rate: float | None = None
    sparsity_weight: float | None = None
    tv_weight: float | None = None
    initial_keep: float | None = None
    mask_size: int | None = None
    block_size: int | None = None

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
        per_device_batch_size: images optimised together on one device; None plans it from the
            memory of the device and what the compiled programs need.
        unit_size: images written together; what a stop in the middle costs at most. A multiple of
            the devices of a host keeps all of them busy.
    """

    per_device_batch_size: int | None = None
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
    """A whole run. The defaults are the demo: three photographs, both objectives.

    `precision` is that of the networks: `float32`, or `bfloat16` for speed on accelerators.
    """

    seed: int = 0
    precision: str = "float32"
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
        _check_data("data", self.data)
        if self.classifier.normalization:
            known = tuple(NORMALIZATIONS)
            _choice("classifier.normalization", self.classifier.normalization, known)
        _choice("precision", self.precision, PRECISIONS)
        _choice("explain.objective", self.explain.objective, OBJECTIVES)
        if self.batch.per_device_batch_size is not None:
            _at_least("batch.per_device_batch_size", self.batch.per_device_batch_size, 1)
        _at_least("batch.unit_size", self.batch.unit_size, 1)
        _at_least("report.max_images", self.report.max_images, 0)
        _check_seed(self.seed)
        try:
            self.explain.settings()
        except ValueError as error:
            raise ConfigError(f"explain: {error}") from error


@dataclasses.dataclass
class TrainConfig:
    """The training of an in-filling generator.

    Attributes:
        model: one of `MODELS`.
        data: images to learn from, a folder or a TFDS dataset.
        heldout: images to measure on, at the size of the model.
        max_heldout: how many of those, spread over all of them.
        crop_size: side of the square crops of a batch, in pixels.
        batch_size: crops a step, over all devices.
        num_steps: optimiser steps.
        learning_rate: of Muon at its peak.
        warmup_steps: steps of its rise; it falls along a cosine.
        ema_decay: of the moving average of the parameters.
        feature_weight: of the distance between features of EfficientNet-Lite0; 0 = without.
        adversarial_weight: of the adversarial loss; 0 = without.
        evaluate_every: steps between two measurements, each with its sheet of samples.
        checkpoint_every: steps between two checkpoints; what a stop costs at most.
        seed: of the initial parameters, the crops and the masks.
    """

    model: str = "gated_unet"
    data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(source="folder", split="train")
    )
    heldout: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(source="folder", split="heldout")
    )
    max_heldout: int = 24
    crop_size: int = 128
    batch_size: int = 16
    num_steps: int = 8500
    learning_rate: float = 0.01
    warmup_steps: int = 100
    ema_decay: float = 0.998
    feature_weight: float = 0.0
    adversarial_weight: float = 0.0
    evaluate_every: int = 1000
    checkpoint_every: int = 250
    seed: int = 0

    def validate(self) -> None:
        """Checks every field that can be checked without touching data.

        Raises:
            ConfigError: names the field, what it was and what it accepts.
        """
        _choice("model", self.model, MODELS)
        _check_data("data", self.data)
        _check_data("heldout", self.heldout)
        for name in ("max_heldout", "batch_size", "num_steps", "evaluate_every"):
            _at_least(name, getattr(self, name), 1)
        _at_least("checkpoint_every", self.checkpoint_every, 1)
        _at_least("crop_size", self.crop_size, 16)
        _check_seed(self.seed)
        try:
            self.settings()
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def settings(self) -> TrainSettings:
        """The hyper-parameters of a step.

        Raises:
            ValueError: a value is out of range.
        """
        names = [field.name for field in dataclasses.fields(TrainSettings)]
        return TrainSettings(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass
class TrainClassifierConfig:
    """The training of a small classifier.

    Attributes:
        name: one of `TRAINED_CLASSIFIERS`.
        data: labelled images to learn from.
        heldout: labelled images to measure the accuracy on.
        batch_size: images a step.
        num_steps: optimiser steps.
        learning_rate: of Adam at its beginning; falls along a cosine to zero.
        seed: of the initial parameters and of the order of the images.
    """

    name: str = "mnist_cnn"
    data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(source="tfds", name="mnist", split="train")
    )
    heldout: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(source="tfds", name="mnist", split="test")
    )
    batch_size: int = 128
    num_steps: int = 3000
    learning_rate: float = 1e-3
    seed: int = 0

    def validate(self) -> None:
        """Checks every field that can be checked without touching data.

        Raises:
            ConfigError: names the field, what it was and what it accepts.
        """
        _choice("name", self.name, TRAINED_CLASSIFIERS)
        _check_data("data", self.data)
        _check_data("heldout", self.heldout)
        _at_least("batch_size", self.batch_size, 1)
        _at_least("num_steps", self.num_steps, 1)
        _check_seed(self.seed)
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate is {self.learning_rate!r}; expected more than 0")


def check_field(config: Any, path: str) -> None:
    """Checks that a config has a field.

    Args:
        config: a dataclass of dataclasses.
        path: names joined by dots, for example `explain.num_steps`.

    Raises:
        ConfigError: it has none; the message lists those it has there.
    """
    section = config
    for name in path.split("."):
        fields = dataclasses.fields(section) if dataclasses.is_dataclass(section) else ()
        if name not in (known := [field.name for field in fields]):
            raise ConfigError(
                f"unknown config field config.{path}; known there: {', '.join(known) or 'none'}"
            )
        section = getattr(section, name)


def _check_data(section: str, config: DataConfig) -> None:
    _choice(f"{section}.source", config.source, SOURCES)
    _choice(f"{section}.resize", config.resize, RESIZES)
    if config.class_folders and config.source != "folder":
        raise ConfigError(
            f"{section}.class_folders is for {section}.source=folder; got {config.source}"
        )
    if config.max_examples is not None:
        _at_least(f"{section}.max_examples", config.max_examples, 1)


def _check_seed(seed: int) -> None:
    _at_least("seed", seed, 0)
    # JAX reads 32 bits: a larger seed would draw the noise of a smaller one, or fail.
    if seed > _MAX_SEED:
        raise ConfigError(f"seed is {seed}; expected at most {_MAX_SEED}")


def _choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{field} is {value!r}; expected one of {', '.join(choices)}")


def _at_least(field: str, value: int, minimum: int) -> None:
    if type(value) is not int or value < minimum:
        raise ConfigError(f"{field} is {value!r}; expected a whole number of at least {minimum}")
