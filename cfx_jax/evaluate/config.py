"""The typed configuration of an evaluation."""

import dataclasses

from cfx_jax.baselines import METHODS
from cfx_jax.config import Config, ConfigError, check_at_least


@dataclasses.dataclass
class EvaluateConfig(Config):
    """An evaluation: of a run with several generators, and of other methods on the same images.

    The fields of `Config` say what is explained and how. Its `generator` is the one that fills the
    holes of the generative curves, and one of those that learnt masks are judged with.

    Attributes:
        infills: generators to learn masks with, a run each; not looked at with `--records`.
        baselines: other methods, names of `cfx_jax.baselines.METHODS`.
        baseline_infill: generator that replaces pixels for them.
        curve_steps: steps of a deletion or insertion curve.
        sanity_images: so many images, the first ones, show whether the maps of baselines depend on
            the weights and on the class, for two more maps of each. Masks are not learnt anew, so
            runs are not checked. 0 = none, as in evaluations begun before there were any.
    """

    infills: tuple[str, ...] = ("gated_unet",)
    baselines: tuple[str, ...] = ("random", "centre", "uniform")
    baseline_infill: str = "blur"
    curve_steps: int = 20
    sanity_images: int = 20

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
        for name in ("infills", "baselines"):
            if len(set(values := getattr(self, name))) < len(values):
                raise ConfigError(f"{name} are {values!r}; expected each only once")
        check_at_least("curve_steps", self.curve_steps, 1)
        check_at_least("sanity_images", self.sanity_images, 0)
