"""The typed configuration of a run, its defaults (the demo) and its validation.

A config file defines `get_config() -> Config`, and every field can be overridden on the command
line as `--config.section.field=value`.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, get_type_hints

from cfx_jax.classifiers import CHANNEL_ORDERS, INTERPOLATIONS, LOGIT_KINDS, NORMALIZATIONS
from cfx_jax.fido import (
    DIRECTIONS,
    Settings,
    get_settings,
    name_results,
)

OBJECTIVES = (*DIRECTIONS, "both")
SOURCES = ("bundled", "folder", "npz", "tfds")
RESIZES = ("crop", "cover", "stretch")
PRECISIONS = ("float32", "bfloat16", "auto")
_MAX_SEED = 2**32 - 1
_MAX_WHITE = 2**16 - 1


class ConfigError(ValueError):
    """Error for a config that cannot run; the message names the field and its accepted values."""


@dataclasses.dataclass
class DataConfig:
    """The source of the images.

    Attributes:
        source: kind of source: `bundled` (the demo pictures), `folder`, `npz` or `tfds`.
        path: path of the image folder or a single image, of the .npz file, or of the TFDS data
            directory ("" = the default of TFDS). A folder may contain a manifest.csv with the
            columns `file`, `label`, `boxes` and `split`. An .npz file contains `images`
            `[N, H, W]`, `[N, H, W, 1]` or `[N, H, W, 3]`, uint8 or floats in [0, 1], and may
            contain `labels` and `ids`; the names `x` and `y` are read, too. See docs/data.md.
        name: name of the TFDS dataset.
        split: split to explain. TFDS: the split's name; folder: the rows of manifest.csv with this
            `split`; .npz file: the arrays that end in `_SPLIT`, such as `x_train` and `y_train`.
        resize: resizing rule: `crop` (short side to the size over `classifier.crop`, centre crop),
            `cover` (short side to the size, centre crop) or `stretch`.
        files: images of the folder to explain, as paths inside it, without labels; () = all images,
            with the labels of the folder.
        class_folders: whether sub-folders of the image folder are classes, named by class number,
            ImageNet synset or class name; if no name is one of these, the sub-folders are numbered
            in the order of their names.
        max_examples: number of examples to explain, from the first on; None = all.
        allowed: path of a picture whose white pixels the region may contain, for all images; or of
            a folder with one picture per image, named like the image inside `path`, with any suffix
            of a picture; "" = all pixels.
        white: value of white in grey images with more than 8 bits, for example 4095 for 12 bits
            stored in 16; larger values are white, too. None = the largest value of the file's
            depth.
    """

    source: str = "bundled"
    path: str = ""
    name: str = ""
    split: str = ""
    resize: str = "crop"
    files: tuple[str, ...] = ()
    class_folders: bool = False
    max_examples: int | None = None
    allowed: str = ""
    white: int | None = None


@dataclasses.dataclass
class ClassifierConfig:
    """The classifier to explain.

    Attributes:
        name: name of the architecture; or your own function that builds the classifier,
            `package.module:function` or `path/to/file.py:function`, see `examples/`.
        weights: path of the weights ("" = the packaged weights).
        class_names: path of a text file with one class name per line, or number and name, or of a
            JSON file ("" = the published names).
        normalization: name of the normalisation, a key of `cfx_jax.classifiers.NORMALIZATIONS`
            ("" = the published normalisation).
        image_size: side of the square that images are resized to; None = the size used in training.
        channels: number of image channels of your own classifier, 3 or 1; None = its own value.
        mean: mean of each channel, red first, for `(images - mean) / std` with images in [0, 1]; an
            alternative to `normalization`.
        std: standard deviation of each channel, with `mean`.
        channel_order: order of the channels: `rgb`, or `bgr` for a network that expects blue first.
        crop: share of the resized image's side that the central crop keeps, with
            `data.resize=crop`; None = the value in the config file next to the weights, else 0.875.
        interpolation: resizing filter, `bicubic`, `bilinear`, `lanczos`, `hamming`, `box` or
            `nearest` ("" = the value in the config file next to the weights, else bicubic).
        logits: kind of the logits, `softmax` or `sigmoid`, see `cfx_jax.Classifier` ("" = the
            classifier's own value).
    """

    name: str = "efficientnet_lite0"
    weights: str = ""
    class_names: str = ""
    normalization: str = ""
    image_size: int | None = None
    channels: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channel_order: str = "rgb"
    crop: float | None = None
    interpolation: str = ""
    logits: str = ""

    def validate(self) -> None:
        """Raises `ConfigError` for a value that is invalid for every classifier."""
        if self.normalization:
            check_choice("classifier.normalization", self.normalization, tuple(NORMALIZATIONS))
        if self.logits:
            check_choice("classifier.logits", self.logits, LOGIT_KINDS)
        check_choice("classifier.channel_order", self.channel_order, CHANNEL_ORDERS)
        if self.interpolation:
            check_choice("classifier.interpolation", self.interpolation, INTERPOLATIONS)
        if self.crop is not None and not 0.0 < self.crop <= 1.0:
            raise ConfigError(
                f"classifier.crop is {self.crop!r}; expected a share above 0, up to 1"
            )
        if self.image_size is not None:
            check_at_least("classifier.image_size", self.image_size, 1)
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"classifier.channels is {self.channels!r}; expected 3 or 1")
        numbers = (*self.mean, *self.std)
        if (
            any(type(number) not in (int, float) for number in numbers)
            or len(self.mean) != len(self.std)
            or len(self.mean) not in (0, 1, self.channels or 3)
            or min(self.std, default=1) <= 0
        ):
            raise ConfigError(
                f"classifier.mean is {self.mean!r} and classifier.std {self.std!r}; expected one "
                "number of each for a channel, std above 0"
            )
        if max(self.mean, default=0) > 1:
            raise ConfigError(
                f"classifier.mean is {self.mean!r}; expected means of images in [0, 1]: divide "
                "mean and std by 255"
            )
        if self.mean and self.normalization:
            raise ConfigError(
                "classifier.mean and classifier.normalization are both given; expected one of them"
            )


@dataclasses.dataclass
class GeneratorConfig:
    """The in-filling generator.

    Attributes:
        name: name of a packaged generator, several names joined by `+`, or your own function that
            builds a generator, named as for the classifier.
        weights: path of the weights ("" = the packaged weights).
    """

    name: str = "gated_unet"
    weights: str = ""


@dataclasses.dataclass
class _Goal:
    """The explanations to learn.

    Attributes:
        objective: objective to learn: `ssr`, `sdr` or `both`.
        mode: mode of the settings: `region`, `fast`, `paper` or `bbmp`, see
            `cfx_jax.fido.settings.MODES`.
        target: class to explain in every image, by name or number; "" = the label, or the predicted
            class if there is no label.
        contrast: class k, for "why the target rather than k?"; None explains the target alone.
        top_classes: number of most likely classes to explain in each image, as examples with the
            ids `ID#1`, `ID#2`, ...; None = one class, see `target`.
    """

    objective: str = "both"
    mode: str = "region"
    target: str = ""
    contrast: int | None = None
    top_classes: int | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives to learn, in order."""
        return tuple(DIRECTIONS) if self.objective == "both" else (self.objective,)

    @property
    def results(self) -> tuple[str, ...]:
        """The names of the results of an image: `ssr`, and `ssr_2`, ... for alternatives."""
        return tuple(
            name
            for objective in self.objectives
            for name in name_results(objective, self.settings().alternatives)
        )

    def settings(self) -> Settings:
        """Returns the settings of the mode with this section's overrides.

        Raises:
            ValueError: a value is out of range or the mode is unknown.
        """
        given = {name: getattr(self, name) for name, _, _ in _OVERRIDES}
        given = {name: value for name, value in given.items() if value is not None}
        return get_settings(self.mode, **given)


# Name, type and default (None) of each setting, except those that define a mode.
_OVERRIDES = [
    (name, kind | None, None)
    for name, kind in get_type_hints(Settings).items()
    if name not in ("relaxation", "temperature")
]

if TYPE_CHECKING:

    class ExplainConfig(_Goal):
        """The class below, whose fields type checkers cannot infer."""

        def __init__(self, *goal: Any, **fields: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

else:
    ExplainConfig = dataclasses.make_dataclass(
        "ExplainConfig",
        _OVERRIDES,
        bases=(_Goal,),
        namespace={
            "__module__": __name__,
            "__doc__": "What to learn, and the settings; None keeps the value of the mode.",
        },
    )


@dataclasses.dataclass
class BatchConfig:
    """Batch size and size of the units that are written.

    Attributes:
        per_device_batch_size: number of images optimised together on one device; None chooses it
            from the memory of the device and of the compiled programs.
        unit_size: number of images written together; a stopped run loses at most this many. A
            multiple of the number of devices of a host keeps all of them busy.
    """

    per_device_batch_size: int | None = None
    unit_size: int = 1


@dataclasses.dataclass
class ReportConfig:
    """The gallery of a run.

    Attributes:
        save_images: whether the records contain the images and their in-fills, for the gallery.
        max_images: number of examples, from the first on, with pictures in the gallery, 30 kB
            each; numbers are shown for all. `python -m cfx_jax.report RUN` draws more later.
    """

    save_images: bool = True
    max_images: int = 1000


@dataclasses.dataclass
class Config:
    """The config of a run. The defaults are the demo: three pictures, both objectives.

    Attributes:
        seed: seed of all random numbers; the key of an image follows from the seed and the image's
            id.
        precision: precision of the networks: `float32`, `bfloat16`, or `auto`, which is bfloat16 on
            accelerators and float32 on CPU.
        data: source of the images.
        classifier: the classifier to explain.
        generator: the model that fills holes.
        explain: explanations to learn, and their settings.
        batch: batch size and size of the units that are written.
        report: the gallery of the run.
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
        """Checks every field that can be checked without reading data or weights.

        Raises:
            ConfigError: a field is invalid; the message names it, its value and the accepted
                values.
        """
        check_data("data", self.data)
        self.classifier.validate()
        if self.classifier.crop is not None and self.data.resize != "crop":
            raise ConfigError(
                f"classifier.crop is {self.classifier.crop!r}, but data.resize is "
                f"{self.data.resize!r}; expected data.resize=crop, or no crop"
            )
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("explain.objective", self.explain.objective, OBJECTIVES)
        if self.batch.per_device_batch_size is not None:
            check_at_least("batch.per_device_batch_size", self.batch.per_device_batch_size, 1)
        for name in ("contrast", "top_classes"):
            if (value := getattr(self.explain, name)) is not None:
                check_at_least(f"explain.{name}", value, int(name == "top_classes"))
        if self.explain.target and self.explain.top_classes is not None:
            raise ConfigError(
                "explain.target and explain.top_classes are both given; expected one of them"
            )
        check_at_least("batch.unit_size", self.batch.unit_size, 1)
        check_at_least("report.max_images", self.report.max_images, 0)
        check_seed(self.seed)
        try:
            self.explain.settings()
        except ValueError as error:
            raise ConfigError(f"explain: {error}") from error


def check_field(config: Any, path: str) -> None:
    """Checks that a config has a field.

    Args:
        config: config, a dataclass of dataclasses.
        path: path of the field, names joined by dots, for example `explain.num_steps`.

    Raises:
        ConfigError: there is no such field; the message lists the known fields.
    """
    section = config
    for name in path.split("."):
        fields = dataclasses.fields(section) if dataclasses.is_dataclass(section) else ()
        if name not in (known := [field.name for field in fields]):
            raise ConfigError(
                f"unknown config field config.{path}; known there: {', '.join(known) or 'none'}"
            )
        section = getattr(section, name)


def check_data(section: str, config: DataConfig) -> None:
    """Raises `ConfigError` for a section of data that no source can open."""
    check_choice(f"{section}.source", config.source, SOURCES)
    check_choice(f"{section}.resize", config.resize, RESIZES)
    if config.class_folders and config.source != "folder":
        raise ConfigError(
            f"{section}.class_folders is for {section}.source=folder; got {config.source}"
        )
    if config.max_examples is not None:
        check_at_least(f"{section}.max_examples", config.max_examples, 1)
    if config.white is not None:
        check_at_least(f"{section}.white", config.white, 1)
        if config.source != "folder":
            raise ConfigError(
                f"{section}.white is for {section}.source=folder; got {config.source}"
            )
        if config.white > _MAX_WHITE:
            raise ConfigError(
                f"{section}.white is {config.white}; expected at most {_MAX_WHITE}, 16 bits"
            )


def check_seed(seed: int) -> None:
    """Raises `ConfigError` for a seed that JAX would change or refuse."""
    check_at_least("seed", seed, 0)
    # JAX reads 32 bits: a larger seed would draw the noise of a smaller seed, or fail.
    if seed > _MAX_SEED:
        raise ConfigError(f"seed is {seed}; expected at most {_MAX_SEED}")


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises `ConfigError` for a value that is not one of the choices."""
    if value not in choices:
        raise ConfigError(f"{field} is {value!r}; expected one of {', '.join(choices)}")


def check_at_least(field: str, value: int, minimum: int) -> None:
    """Raises `ConfigError` for a value that is not a whole number of at least the minimum."""
    if type(value) is not int or value < minimum:
        raise ConfigError(f"{field} is {value!r}; expected a whole number of at least {minimum}")
