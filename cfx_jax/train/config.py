"""The typed configurations of the trainings."""

import dataclasses

from cfx_jax.config import (
    ConfigError,
    DataConfig,
    check_at_least,
    check_choice,
    check_data,
    check_seed,
)
from cfx_jax.train.step import TrainSettings

MODELS = ("gated_unet", "gated_unet_stochastic", "contextual_attention", "vae", "vae_digits")
# Architectures without batch normalisation and dropout, so that training uses inference layers.
TRAINED_CLASSIFIERS = ("mnist_cnn",)


@dataclasses.dataclass
class TrainConfig:
    """Config of the training of an in-filling generator.

    Attributes:
        model: name of the generator, one of `MODELS`.
        data: images to train on, a folder or a TFDS dataset.
        heldout: images to evaluate on, resized to the size of the model.
        max_heldout: number of held-out images, evenly spaced over `heldout`.
        crop_size: side of the square crops of a batch, in pixels.
        batch_size: number of crops per step, over all devices.
        num_steps: number of optimiser steps.
        learning_rate: peak learning rate of Muon.
        warmup_steps: number of steps over which the learning rate rises; then it falls along a
            cosine.
        ema_decay: decay of the moving average of the parameters.
        feature_weight: weight of the distance between features of EfficientNet-Lite0; 0 omits it.
        adversarial_weight: weight of the adversarial loss; 0 omits it.
        evaluate_every: number of steps between two evaluations, each with a sheet of samples.
        checkpoint_every: number of steps between two checkpoints; a stop loses at most this many.
        seed: seed of the initial parameters, the crops and the masks.
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
        """Checks every field that can be checked without reading data.

        Raises:
            ConfigError: a field is invalid; the message names it, its value and the accepted
                values.
        """
        check_choice("model", self.model, MODELS)
        check_data("data", self.data)
        check_data("heldout", self.heldout)
        for name in ("max_heldout", "batch_size", "num_steps", "evaluate_every"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("checkpoint_every", self.checkpoint_every, 1)
        check_at_least("crop_size", self.crop_size, 16)
        check_seed(self.seed)
        try:
            self.settings()
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def settings(self) -> TrainSettings:
        """Returns the hyper-parameters of the training.

        Raises:
            ValueError: a value is out of range.
        """
        names = [field.name for field in dataclasses.fields(TrainSettings)]
        return TrainSettings(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass
class TrainClassifierConfig:
    """Config of the training of a small classifier.

    Attributes:
        name: name of the architecture, one of `TRAINED_CLASSIFIERS`.
        data: labelled images to train on.
        heldout: labelled images on which the accuracy is measured.
        batch_size: number of images per step.
        num_steps: number of optimiser steps.
        learning_rate: initial learning rate of Adam, which falls along a cosine to zero.
        seed: seed of the initial parameters and of the order of the images.
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
        """Checks every field that can be checked without reading data.

        Raises:
            ConfigError: a field is invalid; the message names it, its value and the accepted
                values.
        """
        check_choice("name", self.name, TRAINED_CLASSIFIERS)
        check_data("data", self.data)
        check_data("heldout", self.heldout)
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("num_steps", self.num_steps, 1)
        check_seed(self.seed)
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate is {self.learning_rate!r}; expected more than 0")
