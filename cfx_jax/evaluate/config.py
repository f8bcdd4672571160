"""The typed configuration of an evaluation."""

import dataclasses

from cfx_jax.baselines import METHODS
from cfx_jax.config import ClassifierConfig, Config, ConfigError, check_at_least
from cfx_jax.weights import ARCHITECTURES


@dataclasses.dataclass
class TransferConfig:
    """Transfer classifiers: they evaluate masks that were learnt with another classifier.

    Attributes:
        classifiers: others with the same classes, each `NAME` or `NAME=WEIGHTS`, as the section
            `classifier` gives the one explained. Hard masks, filled by `generator`, are shown to
            each of them; an image it gets wrong itself does not count.
    """

    classifiers: tuple[str, ...] = ()

    def sections(self) -> dict[str, ClassifierConfig]:
        """What to load, by what tables call it: its name, or all of it where names are the same."""
        found = {text: ClassifierConfig(*text.partition("=")[::2]) for text in self.classifiers}
        names = [section.name for section in found.values()]
        return {
            section.name if names.count(section.name) == 1 else text: section
            for text, section in found.items()
        }


@dataclasses.dataclass
class EvaluateConfig(Config):
    """An evaluation: of a run with several generators, and of other methods on the same images.

    The fields of `Config` define what is explained and how. Its `generator` fills the
    holes of the generative curves, and is one of the in-fills that learnt masks are evaluated with.

    Attributes:
        infills: generators to learn masks with, one run each; ignored with `--records`.
        baselines: other methods, names of `cfx_jax.baselines.METHODS`.
        baseline_infill: generator that replaces pixels for them.
        curve_steps: steps of a deletion or insertion curve.
        sanity_images: so many images, the first ones, show whether the maps of baselines depend on
            the weights and on the class, for two more maps of each. Masks are not learnt anew, so
            runs are not checked. 0 = none.
        transfer: transfer classifiers.
    """

    infills: tuple[str, ...] = ("gated_unet",)
    baselines: tuple[str, ...] = ("random", "centre", "uniform")
    baseline_infill: str = "blur"
    curve_steps: int = 20
    sanity_images: int = 20
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)

    def validate(self) -> None:
        """Checks every field that can be checked without touching data or weights.

        Raises:
            ConfigError: names the field, what it was and what it accepts.
        """
        super().validate()
        if unknown := sorted(set(self.baselines) - set(METHODS)):
            raise ConfigError(
                f"baselines hold {', '.join(unknown)}; expected some of {', '.join(METHODS)}"
            )
        for section in self.transfer.sections().values():
            if section.name not in ARCHITECTURES:
                raise ConfigError(
                    f"transfer.classifiers hold {section.name!r}; expected NAME or NAME=WEIGHTS, "
                    f"NAME one of {', '.join(sorted(ARCHITECTURES))}"
                )
        for name, values in (
            ("infills", self.infills),
            ("baselines", self.baselines),
            ("transfer.classifiers", self.transfer.classifiers),
        ):
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} are {values!r}; expected each only once")
        check_at_least("curve_steps", self.curve_steps, 1)
        check_at_least("sanity_images", self.sanity_images, 0)
