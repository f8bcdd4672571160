"""The hyper-parameters of an explanation and the named modes."""

import dataclasses
import math
from typing import Any

import numpy as np

from cfx_jax.fido.masks import MaskLaw, Relaxation

SEARCH_STEPS = (6, 4)
"""Steps of the threshold searches of the learnt map and of its connected map."""
# Smallest `confidence` at which a step of a threshold search draws 4 hard masks; below, it draws 8.
# Without a reserve, 4 masks are too few: docs/benchmarks.md, known smallest regions.
_CONFIDENCE_OF_FEW_MASKS = 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
    """The hyper-parameters of one explanation.

    Attributes:
        num_steps: number of optimiser steps, T.
        num_samples: masks drawn per step, S. Learning takes T x S evaluations.
        learning_rate: initial learning rate of Adam; falls linearly to zero over the steps after
            the warm start.
        warmup_steps: steps over which the penalty grows: it is multiplied by
            `min(1, t / warmup_steps)`, where t does not count the `warm_start_steps`.
        sparsity_weight: lambda, cost of a pixel kept (SSR) or dropped (SDR). With a
            `success_target` it is the initial price of a pixel of a 224 x 224 image.
        tv_weight: tau, weight of the total variation.
        relaxation: way in which masks are drawn, see `Relaxation`.
        temperature: temperature of the concrete distribution.
        block_size: side of the squares (blocks) whose pixels share one draw of the noise, in
            pixels; 1 as published. A good in-fill reconstructs an image from scattered pixels but
            not from whole blocks, so larger blocks lead to connected regions. A deterministic mask
            has no noise.
        smooth_scale: distance over which the noise changes smoothly, as a share of the shorter side
            of the image; 0 = no smooth noise: the pixels, or the blocks, are independent. See
            `cfx_jax.fido.noise.smooth_noise`.
        smoothing: standard deviation, in cells, of the Gaussian that averages neighbouring cells
            while they are learnt, so that they move together; 0 as published.
        initial_keep: probability of keeping each cell before the first step.
        mask_size: number of cells along each side of the mask, h = w.
        perimeter_weight: rho, width of the strip along the boundary of the region that is charged
            like area, as a share of the shorter side of the image; 0 as published.
        margin_cap: m, logit margin beyond which evidence no longer counts (SDR: margin of another
            class over the target); 0 = uncapped log-odds, as published.
        success_target: share of hard masks that have to keep (SSR) or flip (SDR) the
            prediction. If it is above 0, lambda is adapted to each image, and a threshold search
            finds the smallest region that succeeds, see `cfx_jax.fido.optimisation.adapt_price`
            and `cfx_jax.fido.threshold`; 0 = a fixed lambda and no search, as published. Each step
            of the search draws `num_search_masks` hard masks, 4 or 8, so that 0.9 means all of
            them; the status is that of 32 others.
        sharpness: factor by which the logits are multiplied after learning, if there is a
            `success_target`. The larger it is, the less hard masks differ from the region.
        confidence: reserve of the threshold search, as a share of the logit margin of the original
            image, or of `margin_cap` if that is smaller: the target (SSR) or another class (SDR)
            has to lead by this logit margin, unless that would take nearly the whole image; 0 = the
            smallest region that just suffices for this classifier.
        warm_start_steps: number of first steps, counted in T, that only sum gradients; a
            `margin_cap` does not yet apply. The initial cells follow from these sums, see
            `cfx_jax.fido.optimisation.warm_start`; 0 = all cells start at `initial_keep`, as
            published.
        prior_weight: weight of the gradients of the warm start in the map of the threshold search,
            see `cfx_jax.fido.optimisation.add_prior`. A larger weight gives larger regions that
            change less under imperceptible changes of the image; 0 = the learnt map alone.
        fixed_noise: whether all images and random keys share the noise of learning, in antithetic
            pairs (each noise with its negative), and that of the threshold search. The region then
            does not depend on the key, unless the generator draws random numbers. False = noise
            drawn for each image from its key, as published.
        coarse_infill: whether a `scalable` generator, such as `gated_unet`, fills holes at half the
            resolution while the mask is learnt, in a third of the time. The threshold search and
            the hard masks use the full resolution.
        patience: p, number of steps after which an image without improvement stops. It stops if the
            mean objective of its last p steps is less than 1 % below that of the p steps before
            them, from step `warm_start_steps + warmup_steps + 2 p` on; 0 = all images take
            `num_steps`, as published.
        alternatives: number K of regions to search for, each with little overlap with
            those before, see `cfx_jax.fido.alternatives`. `explain` takes K times as long; a run
            stops at the first search that finds none.
        max_overlap: largest share of a further region that may lie in one earlier region.
    """

    num_steps: int
    num_samples: int
    learning_rate: float
    warmup_steps: int
    sparsity_weight: float
    tv_weight: float = 0.0
    relaxation: Relaxation = Relaxation.CONCRETE
    temperature: float = 0.1
    block_size: int = 1
    initial_keep: float = 0.5
    mask_size: int = 56
    smooth_scale: float = 0.0
    smoothing: float = 0.0
    perimeter_weight: float = 0.0
    margin_cap: float = 0.0
    success_target: float = 0.0
    sharpness: float = 1.0
    confidence: float = 0.0
    warm_start_steps: int = 0
    prior_weight: float = 0.0
    fixed_noise: bool = False
    coarse_infill: bool = False
    patience: int = 0
    alternatives: int = 1
    max_overlap: float = 0.5

    def __post_init__(self) -> None:
        for name in (
            "num_steps",
            "num_samples",
            "warmup_steps",
            "mask_size",
            "block_size",
            "alternatives",
        ):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
        if not _is_finite(self.max_overlap) or not 0 <= self.max_overlap <= 1:
            raise ValueError(
                f"max_overlap is {self.max_overlap!r}; expected a share between 0 and 1"
            )
        self._check_steps()
        for name in ("learning_rate", "temperature", "sharpness"):
            value = getattr(self, name)
            if not _is_finite(value) or value <= 0:
                raise ValueError(f"{name} is {value!r}; expected a positive number, finite")
        for name in (
            "sparsity_weight",
            "tv_weight",
            "smooth_scale",
            "smoothing",
            "perimeter_weight",
            "margin_cap",
            "confidence",
            "prior_weight",
        ):
            value = getattr(self, name)
            if not _is_finite(value) or value < 0:
                raise ValueError(f"{name} is {value!r}; expected 0 or more, finite")
        if not isinstance(self.relaxation, Relaxation):
            known = ", ".join(str(relaxation) for relaxation in Relaxation)
            raise ValueError(f"relaxation is {self.relaxation!r}; expected one of {known}")
        self._check_law()
        # The logit of 0 or 1 is infinite; a deterministic mask is learnt without logits.
        ends = self.relaxation is Relaxation.DETERMINISTIC
        keep = self.initial_keep
        if not _is_finite(keep) or not (0 < keep < 1 or (ends and keep in (0, 1))):
            raise ValueError(
                f"initial_keep is {keep!r}; expected a probability between 0 and 1, "
                "both excluded unless the relaxation is deterministic"
            )

    def _check_steps(self) -> None:
        for name in ("warm_start_steps", "patience"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 0")
        if self.warm_start_steps >= self.num_steps:
            raise ValueError(
                f"warm_start_steps is {self.warm_start_steps} of {self.num_steps} steps, "
                "so no step is left for learning: use fewer of them, or more steps"
            )
        if self.warm_start_steps and self.relaxation is Relaxation.DETERMINISTIC:
            raise ValueError(
                "warm_start_steps moves logits, and a deterministic mask has none: leave it at 0"
            )
        earliest = self.first_stopping_step
        if self.patience and earliest >= self.num_steps:
            raise ValueError(
                f"patience is {self.patience}, so no image stops before step {earliest}, which is "
                f"warm_start_steps + warmup_steps + 2 * patience; there are {self.num_steps} "
                "steps: use a smaller patience, more steps, or patience 0, with which no image "
                "stops early"
            )

    @property
    def first_stopping_step(self) -> int:
        """First step after which `patience` may stop an image."""
        return self.warm_start_steps + self.warmup_steps + 2 * self.patience

    def _check_law(self) -> None:
        deterministic = self.relaxation is Relaxation.DETERMINISTIC
        if self.block_size > 1 and deterministic:
            raise ValueError(
                f"block_size is {self.block_size}; the pixels of a block share their noise, and a "
                "deterministic mask has none: leave block_size at 1"
            )
        if self.smooth_scale and (deterministic or self.block_size > 1):
            reason = (
                "a deterministic mask has no noise"
                if deterministic
                else f"block_size {self.block_size} draws the noise in blocks"
            )
            raise ValueError(
                f"smooth_scale is {self.smooth_scale}; smooth noise is not possible, since "
                f"{reason}: leave smooth_scale at 0, or use the concrete relaxation and block_size "
                "1"
            )
        target = self.success_target
        if not _is_finite(target) or not 0 <= target <= 1:
            raise ValueError(f"success_target is {target!r}; expected a share between 0 and 1")
        if type(self.fixed_noise) is not bool or (deterministic and self.fixed_noise):
            reason = "; a deterministic mask has no noise" if deterministic else ""
            raise ValueError(
                f"fixed_noise is {self.fixed_noise!r}{reason}: expected False"
                + " or True" * (not deterministic)
            )
        if type(self.coarse_infill) is not bool:
            raise ValueError(f"coarse_infill is {self.coarse_infill!r}: expected False or True")
        if deterministic and (target or self.smoothing):
            raise ValueError(
                "success_target and smoothing move logits, and a deterministic mask has none: "
                "leave them at 0"
            )

    @property
    def mask_law(self) -> MaskLaw:
        """Law by which masks are drawn."""
        return MaskLaw(
            self.relaxation,
            self.temperature,
            self.block_size,
            self.smooth_scale,
            # The logits are sharpened only by the threshold search.
            self.sharpness if self.success_target else 1.0,
        )

    @property
    def num_search_masks(self) -> int:
        """Number of hard masks in each step of a threshold search; more if the reserve is small."""
        return 4 if self.confidence >= _CONFIDENCE_OF_FEW_MASKS else 8

    @property
    def num_evaluations(self) -> int:
        """Largest number of evaluations for one region, without the hard-mask evaluation."""
        return round(self.count_evaluations(self.num_steps))

    def count_evaluations(self, num_steps: float) -> float:
        """Returns `num_evaluations` for another number of steps, such as a mean over images."""
        num_search = sum(SEARCH_STEPS) * self.num_search_masks if self.success_target else 0
        return num_steps * self.num_samples + num_search


def _is_finite(value: Any) -> bool:
    # Python counts bool as a number, but True is not a valid amount.
    is_number = isinstance(value, int | float | np.integer | np.floating)
    return is_number and not isinstance(value, bool) and math.isfinite(value)


# The smallest region that reaches the success target, in 280 evaluations.
_REGION = Settings(
    num_steps=120,
    num_samples=2,
    learning_rate=0.8,
    warmup_steps=8,
    sparsity_weight=1e-4,
    temperature=0.4,
    mask_size=28,
    smooth_scale=0.07,
    smoothing=1.0,
    perimeter_weight=1 / 28,
    margin_cap=2.0,
    success_target=0.9,
    sharpness=8.0,
    confidence=1.0,
    warm_start_steps=30,
    prior_weight=0.4,
    fixed_noise=True,
    coarse_infill=True,
)

MODES = {
    "region": _REGION,
    # Better objectives than `paper` in a tenth of its evaluations. The fields that differ:
    "fast": Settings(
        num_steps=240,  # Many steps with one mask: Adam averages over steps instead of over masks.
        num_samples=1,
        learning_rate=0.3,  # Logits have to move as far as in `paper`, in fewer steps.
        warmup_steps=15,
        warm_start_steps=16,  # Gradients of 16 masks set the initial cells, before any penalty.
        # At 1e-3 a whole image costs 50, more than the log-odds of most classifiers can change.
        # Where a good in-fill restores much of the image, the optimum of SDR would be to drop
        # nothing.
        sparsity_weight=2e-4,
        temperature=0.4,  # Gradients of lower variance; still higher temperatures mislead SSR.
        # A good in-fill restores the image from half of its pixels: in-filling the other half
        # changes little.
        initial_keep=0.2,
    ),
    # All fields as published: 300 steps of 8 masks, initial keep probability 0.5, temperature 0.1.
    "paper": Settings(
        num_steps=300, num_samples=8, learning_rate=0.05, warmup_steps=30, sparsity_weight=1e-3
    ),
    # Fong and Vedaldi, ICCV 2017, as implemented in the FIDO code: one deterministic mask, which
    # keeps everything at the start and is clipped to [0, 1] after each step.
    "bbmp": Settings(
        num_steps=300,
        num_samples=1,
        learning_rate=0.05,
        warmup_steps=1,
        sparsity_weight=5e-3,
        relaxation=Relaxation.DETERMINISTIC,
        initial_keep=1.0,
    ),
}


def get_settings(mode: str, **overrides: Any) -> Settings:
    """Returns the settings of a mode with some fields replaced.

    Args:
        mode: `"region"`, `"fast"`, `"paper"` or `"bbmp"`.
        **overrides: fields of `Settings`. If `num_steps` is given, the warm start of the mode takes
            at most a quarter of these steps.

    Returns:
        Validated `Settings`.

    Raises:
        ValueError: the mode or a field is unknown (the known ones are listed), a value is out of
            range, or a warm-up longer than that of the mode does not end within `num_steps`.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; known are {', '.join(sorted(MODES))}")
    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"unknown settings {unknown}; known are {', '.join(sorted(known))}")
    # A sweep over an array passes NumPy scalars.
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in overrides.items()}
    if "num_steps" in plain and isinstance(plain["num_steps"], int):
        plain = {
            "warm_start_steps": min(MODES[mode].warm_start_steps, plain["num_steps"] // 4),
            **plain,
        }
    settings = dataclasses.replace(MODES[mode], **plain)
    # With fewer steps, a run may end within the warm-up of its mode; only a longer warm-up than
    # that of the mode is an error.
    end = settings.warm_start_steps + settings.warmup_steps
    if settings.warmup_steps > MODES[mode].warmup_steps and end > settings.num_steps:
        raise ValueError(
            f"warmup_steps is {settings.warmup_steps} after {settings.warm_start_steps} "
            f"warm_start_steps, of {settings.num_steps} steps, so the penalty would never reach "
            "its full weight: use fewer of them, or more steps"
        )
    return settings
