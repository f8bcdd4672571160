"""The typed configuration of an evaluation."""

import dataclasses

from cfx_jax.baselines import METHODS
from cfx_jax.config import Config, ConfigError


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
    """

    infills: tuple[str, ...] = ("gated_unet",)
    baselines: tuple[str, ...] = ("random", "centre", "uniform")
    baseline_infill: str = "blur"
    curve_steps: int = 20

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
        if type(self.curve_steps) is not int or self.curve_steps < 1:
            raise ConfigError(
                f"curve_steps is {self.curve_steps!r}; expected a whole number of at least 1"
            )
