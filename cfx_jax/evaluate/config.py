"""The typed configuration of an evaluation."""

import dataclasses

from cfx_jax.baselines import METHODS
from cfx_jax.config import ClassifierConfig, Config, ConfigError, check_at_least
from cfx_jax.weights import ARCHITECTURES


@dataclasses.dataclass
class TransferConfig:
    """Transfer classifiers: they evaluate masks that were learnt with another classifier.

    Attributes:
        classifiers: classifiers with the same classes, each `NAME` or `NAME=WEIGHTS`, see the
            section `classifier`. Each of them evaluates hard masks, filled by `generator`; images
            that it classifies wrongly do not count.
    """

    classifiers: tuple[str, ...] = ()

    def sections(self) -> dict[str, ClassifierConfig]:
        """Returns the classifiers to load, by their name: NAME, or the whole text if it repeats."""
        found = {text: ClassifierConfig(*text.partition("=")[::2]) for text in self.classifiers}
        names = [section.name for section in found.values()]
        return {
            section.name if names.count(section.name) == 1 else text: section
            for text, section in found.items()
        }


@dataclasses.dataclass
class EvaluateConfig(Config):
    """Config of an evaluation: runs with several generators, and baselines on the same images.

    The fields of `Config` define what is explained and how. Its `generator` fills the holes of the
    generative curves, and is one of the in-fills that learnt masks are evaluated with.

    Attributes:
        infills: generators to learn masks with, one run each; ignored with `--records`.
        baselines: other saliency methods, names of `cfx_jax.baselines.METHODS`.
        baseline_infill: generator that replaces pixels for the baselines.
        curve_steps: number of steps of a deletion or insertion curve.
        sanity_images: number of images, from the first on, on which to check whether the maps of
            baselines depend on the weights and on the class. This costs two more maps per image.
            Runs are not checked, because masks are not learnt again. 0 = none.
        transfer: transfer classifiers.
    """

    infills: tuple[str, ...] = ("gated_unet",)
    baselines: tuple[str, ...] = ("random", "centre", "uniform")
    baseline_infill: str = "blur"
    curve_steps: int = 20
    sanity_images: int = 20
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)

    def validate(self) -> None:
        """Checks every field that can be checked without reading data or weights.

        Raises:
            ConfigError: a field is invalid; the message names it, its value and the accepted
                values.
        """
        super().validate()
        if unknown := sorted(set(self.baselines) - set(METHODS)):
            raise ConfigError(
                f"baselines contain {', '.join(unknown)}; expected some of {', '.join(METHODS)}"
            )
        for section in self.transfer.sections().values():
            if section.name not in ARCHITECTURES:
                raise ConfigError(
                    f"transfer.classifiers contain {section.name!r}; expected NAME or "
                    f"NAME=WEIGHTS, NAME one of {', '.join(sorted(ARCHITECTURES))}"
                )
        for name, values in (
            ("infills", self.infills),
            ("baselines", self.baselines),
            ("transfer.classifiers", self.transfer.classifiers),
        ):
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} are {values!r}; expected each name only once")
        check_at_least("curve_steps", self.curve_steps, 1)
        check_at_least("sanity_images", self.sanity_images, 0)
