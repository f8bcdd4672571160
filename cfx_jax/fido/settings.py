"""The hyper-parameters of an explanation and the named modes."""

import dataclasses
import math
from typing import Any

import numpy as np

from cfx_jax.fido.masks import MaskLaw, Relaxation

SEARCH_STEPS = 6
"""Levels of a learnt map that are tried where there is a `success_target`."""
SEARCH_MASKS = 8
"""Hard masks that decide whether a level does what is asked."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The hyper-parameters of one explanation.

    Attributes:
        num_steps: optimiser steps, T.
        num_samples: masks drawn a step, S. The evaluations of an explanation are T x S.
        learning_rate: of Adam; falls linearly to zero, `lr * (1 - t / T)`.
        warmup_steps: the penalty is multiplied by `min(1, t / warmup_steps)`, t without the
            `warm_start_steps`.
        sparsity_weight: lambda, cost of a pixel kept (SSR) or dropped (SDR); with a
            `success_target`, where it is the first of the prices, of a pixel of 224 x 224.
        tv_weight: tau, weight of the total variation.
        relaxation: how masks are drawn, see `Relaxation`.
        temperature: of the noise, T.
        block_size: side of the squares whose pixels share one draw of the noise, in pixels; 1 as
            published. A good in-fill guesses a picture from scattered pixels; from whole blocks it
            cannot, so larger blocks learn regions. A deterministic mask has no noise to share.
        smooth_scale: distance over which neighbouring pixels share their noise, without the corners
            of blocks, as a share of the shorter side of the image; 0 = they do not. See
            `cfx_jax.fido.masks.smooth_noise`.
        smoothing: cells are averaged with their neighbours while they are learnt, by a Gaussian of
            this standard deviation, in cells, so that they move together; 0 as published.
        initial_keep: probability of keeping each cell before the first step.
        mask_size: cells along each side of the mask, h = w.
        perimeter_weight: rho, width of the strip of area that a boundary costs, as a share of the
            shorter side of the image; 0 as published.
        margin_cap: m, logit margin beyond which evidence no longer counts (SDR: of another class
            over the target); 0 = log-odds without a limit, as published.
        success_target: tau, share of hard masks that have to do what is asked. Lambda is then the
            price of one image, and the map ends at the smallest level that does it, see
            `adapt_price` and `settle`; 0 = one price, and what comes out, as published.
        sharpness: the logits are multiplied by it in the end, where there is a `success_target`.
        warm_start_steps: first steps, among the T, that only sum gradients, from which the initial
            cells follow, see `cfx_jax.fido.optimisation.warm_start`; 0 = all cells start at
            `initial_keep`, as published.
        patience: p, an image takes no more steps once the mean objective of its last p steps is not
            below that of the p steps before them by a hundredth of its size, from step
            `warm_start_steps + warmup_steps + 2 p` on; 0 = all images take `num_steps`, as
            published.
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
    warm_start_steps: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_samples", "warmup_steps", "mask_size", "block_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
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
        ):
            value = getattr(self, name)
            if not _is_finite(value) or value < 0:
                raise ValueError(f"{name} is {value!r}; expected 0 or more, finite")
        if not isinstance(self.relaxation, Relaxation):
            known = ", ".join(str(relaxation) for relaxation in Relaxation)
            raise ValueError(f"relaxation is {self.relaxation!r}; expected one of {known}")
        self._check_law()
        # A logit is finite strictly between 0 and 1 only; a deterministic mask has no logit.
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
                raise ValueError(f"{name} is {value!r}; expected a whole number, 0 or more")
        if self.warm_start_steps >= self.num_steps:
            raise ValueError(
                f"warm_start_steps is {self.warm_start_steps} of {self.num_steps} steps, "
                "so nothing is learnt: take fewer of them, or more steps"
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
                "steps: take a smaller patience, more steps, or 0, with which no image stops early"
            )

    @property
    def first_stopping_step(self) -> int:
        """From this step on an image may be done before its last one, where there is `patience`."""
        return self.warm_start_steps + self.warmup_steps + 2 * self.patience

    def _check_law(self) -> None:
        deterministic = self.relaxation is Relaxation.DETERMINISTIC
        if self.block_size > 1 and deterministic:
            raise ValueError(
                f"block_size is {self.block_size}; the pixels of a block share their noise, and a "
                "deterministic mask has none: leave block_size at 1"
            )
        if self.smooth_scale and (deterministic or self.block_size > 1):
            other = "a deterministic mask has none" if deterministic else "so do those of a block"
            raise ValueError(
                f"smooth_scale is {self.smooth_scale}; neighbouring pixels share their noise, and "
                f"{other}: leave smooth_scale at 0, or take relaxation concrete and block_size 1"
            )
        target = self.success_target
        if not _is_finite(target) or not 0 <= target <= 1:
            raise ValueError(f"success_target is {target!r}; expected a share between 0 and 1")
        if deterministic and (target or self.smoothing):
            raise ValueError(
                "success_target and smoothing move logits, and a deterministic mask has none: "
                "leave them at 0"
            )

    @property
    def mask_law(self) -> MaskLaw:
        """How masks are drawn."""
        return MaskLaw(
            self.relaxation,
            self.temperature,
            self.block_size,
            self.smooth_scale,
            # Only what is settled is sharpened.
            self.sharpness if self.success_target else 1.0,
        )

    @property
    def num_evaluations(self) -> int:
        """Times, at most, that an image is in-filled and classified before the mask is judged."""
        return round(self.count_evaluations(self.num_steps))

    def count_evaluations(self, num_steps: float) -> float:
        """Returns the same for a number of steps, which may be a mean over images."""
        num_search = SEARCH_STEPS * SEARCH_MASKS if self.success_target else 0
        return num_steps * self.num_samples + num_search


def _is_finite(value: Any) -> bool:
    # True is a number to Python, and no amount of anything.
    is_number = isinstance(value, int | float | np.integer | np.floating)
    return is_number and not isinstance(value, bool) and math.isfinite(value)


# Regions: what is kept or dropped has few parts, does what is asked, and is found in 288
# evaluations.
_REGION = Settings(
    num_steps=60,
    num_samples=4,
    learning_rate=0.5,
    warmup_steps=6,
    sparsity_weight=1e-4,
    temperature=0.4,
    mask_size=14,
    smooth_scale=1 / 7,
    smoothing=1.0,
    perimeter_weight=1 / 28,
    margin_cap=2.0,
    success_target=0.9,
    sharpness=3.0,
)

MODES = {
    "region": _REGION,
    # In half of the evaluations: larger steps, from where a first look says.
    "quick": dataclasses.replace(
        _REGION, num_steps=24, warm_start_steps=4, learning_rate=1.2, warmup_steps=2
    ),
    # Better objectives than `paper` in a tenth of its evaluations. Differs from it in these rows.
    "fast": Settings(
        num_steps=240,  # Many steps of one mask: Adam averages over steps what it saves in masks.
        num_samples=1,
        learning_rate=0.3,  # Logits must travel as far in fewer steps.
        warmup_steps=15,
        warm_start_steps=16,  # Slopes of 16 masks say where cells begin, before any price does.
        # At 1e-3 a whole image costs 50, more than any evidence of most classifiers is worth: where
        # a good in-fill restores much, changing nothing is the optimum of SDR.
        sparsity_weight=2e-4,
        temperature=0.4,  # Smoother slopes, of lower variance; softer still deceives SSR.
        # Half of the pixels tell a good in-fill everything, and nothing that is dropped counts.
        initial_keep=0.2,
    ),
    # Every row as published: 300 steps of 8 masks, p = 0.5 at the start, T = 0.1.
    "paper": Settings(
        num_steps=300, num_samples=8, learning_rate=0.05, warmup_steps=30, sparsity_weight=1e-3
    ),
    # Fong and Vedaldi, ICCV 2017, as the FIDO code runs it: one deterministic mask, all kept at
    # the start, clamped to [0, 1] after each step.
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
        mode: `"region"`, `"quick"`, `"fast"`, `"paper"` or `"bbmp"`.
        **overrides: fields of `Settings`. With fewer steps than those of the mode, its look takes
            at most half of them.

    Returns:
        Validated `Settings`.

    Raises:
        ValueError: the mode or a field is unknown (the known ones are listed), a value is out of
            range, or a longer warm-up than that of the mode does not end.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; known are {', '.join(sorted(MODES))}")
    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"unknown settings {unknown}; known are {', '.join(sorted(known))}")
    # Numbers of NumPy, as a sweep over an array gives them, are numbers.
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in overrides.items()}
    if "num_steps" in plain and isinstance(plain["num_steps"], int):
        plain = {
            "warm_start_steps": min(MODES[mode].warm_start_steps, plain["num_steps"] // 2),
            **plain,
        }
    settings = dataclasses.replace(MODES[mode], **plain)
    # A mode that is cut short may end within its own warm-up, which nobody asked to be longer.
    end = settings.warm_start_steps + settings.warmup_steps
    if settings.warmup_steps > MODES[mode].warmup_steps and end > settings.num_steps:
        raise ValueError(
            f"warmup_steps is {settings.warmup_steps} after {settings.warm_start_steps} "
            f"warm_start_steps, of {settings.num_steps} steps, so the penalty would never count in "
            "full: take fewer of them, or more steps"
        )
    return settings
