"""The named modes, and the values that their fields accept."""

import dataclasses
import math

import numpy as np
import pytest

from cfx_jax.fido.settings import MODES, Relaxation, Settings, get_settings


def test_settings_paper_is_the_published_procedure():
    assert MODES["paper"] == Settings(
        num_steps=300,
        num_samples=8,
        learning_rate=0.05,
        warmup_steps=30,
        sparsity_weight=1e-3,
        tv_weight=0.0,
        relaxation=Relaxation.CONCRETE,
        temperature=0.1,
        initial_keep=0.5,
        mask_size=56,
        block_size=1,
    )


def test_settings_bbmp_is_one_deterministic_mask_that_starts_full():
    bbmp = MODES["bbmp"]
    assert bbmp.relaxation is Relaxation.DETERMINISTIC
    assert (bbmp.num_samples, bbmp.warmup_steps, bbmp.initial_keep) == (1, 1, 1.0)
    assert bbmp.sparsity_weight == 5e-3


def test_settings_fast_needs_a_tenth_of_the_evaluations_of_paper():
    fast, paper = MODES["fast"], MODES["paper"]
    assert 10 * fast.num_steps * fast.num_samples <= paper.num_steps * paper.num_samples
    # The published price of a pixel, for in-fills that hide all; a good one restores much.
    assert (paper.sparsity_weight, fast.sparsity_weight) == (1e-3, 2e-4)
    assert fast.mask_size == paper.mask_size


def test_get_settings_overrides_replace_only_their_field():
    changed = get_settings("paper", num_steps=7)
    assert changed == dataclasses.replace(MODES["paper"], num_steps=7)
    assert MODES["paper"].num_steps == 300


def test_get_settings_accepts_values_at_their_bounds():
    get_settings("fast", sparsity_weight=0, tv_weight=0, num_steps=1, mask_size=1, initial_keep=0.9)
    assert get_settings("bbmp", initial_keep=1).initial_keep == 1
    get_settings("paper", learning_rate=np.float32(0.1))


@pytest.mark.parametrize(
    ("mode", "overrides", "message"),
    [
        ("slow", {}, r"unknown mode 'slow'; known are bbmp, fast, paper, region"),
        ("fast", {"steps": 3}, r"unknown settings \['steps'\]; known are .*num_samples.*num_steps"),
        ("fast", {"num_steps": 0}, "num_steps is 0; expected a whole number of at least 1"),
        ("fast", {"num_samples": 2.0}, r"num_samples is 2\.0"),
        ("fast", {"mask_size": True}, "mask_size is True"),
        ("fast", {"block_size": 0}, "block_size is 0; expected a whole number of at least 1"),
        ("fast", {"warmup_steps": "9"}, "warmup_steps is '9'"),
        ("fast", {"patience": -1}, "patience is -1; expected a whole number of at least 0"),
        ("fast", {"patience": 2.5}, r"patience is 2\.5; expected a whole number"),
        (
            "region",
            {"patience": 41},
            r"patience is 41, so no image stops before step 120.*: use a smaller",
        ),
        ("fast", {"learning_rate": 0.0}, "learning_rate is 0.0; expected a positive number"),
        ("fast", {"temperature": math.nan}, "temperature is nan"),
        ("fast", {"sparsity_weight": -1e-3}, "sparsity_weight is -0.001; expected 0 or more"),
        ("fast", {"tv_weight": math.nan}, "tv_weight is nan"),
        ("fast", {"initial_keep": 1.0}, "initial_keep is 1.0"),
        ("bbmp", {"initial_keep": 1.5}, "initial_keep is 1.5"),
        ("paper", {"initial_keep": math.nan}, "initial_keep is nan"),
        ("paper", {"initial_keep": 0.0}, r"initial_keep is 0\.0; expected a probability"),
        ("bbmp", {"block_size": 2}, "block_size is 2; .* deterministic mask has none"),
        (
            "bbmp",
            {"smooth_scale": 0.1},
            r"smooth_scale is 0\.1; .* a deterministic mask has no noise",
        ),
        (
            "fast",
            {"smooth_scale": 0.1, "block_size": 8},
            "block_size 8 draws the noise in blocks: leave",
        ),
        ("fast", {"smooth_scale": -0.1}, r"smooth_scale is -0\.1; expected 0 or more"),
        ("region", {"success_target": 1.5}, r"success_target is 1\.5; expected a share"),
        (
            "region",
            {"margin_cap": math.inf},
            "margin_cap is inf; expected 0 or more, finite",
        ),
        ("region", {"sharpness": 0}, "sharpness is 0; expected a positive number"),
        ("bbmp", {"success_target": 0.9}, "move logits, and a deterministic mask has none"),
        ("bbmp", {"initial_keep": True}, "initial_keep is True"),
        ("bbmp", {"initial_keep": "1"}, "initial_keep is '1'"),
        ("bbmp", {"relaxation": Relaxation.CONCRETE}, r"initial_keep is 1\.0; .* deterministic"),
        ("paper", {"relaxation": "deterministic"}, "relaxation is 'deterministic'.*DETERMINISTIC"),
        ("paper", {"learning_rate": True}, "learning_rate is True; expected a positive number"),
        ("paper", {"learning_rate": "0.1"}, r"learning_rate is '0\.1'"),
        ("paper", {"temperature": math.inf}, "temperature is inf; expected a positive .* finite"),
        ("paper", {"sparsity_weight": math.inf}, "sparsity_weight is inf; .* finite"),
        ("paper", {"tv_weight": None}, "tv_weight is None; expected 0 or more"),
        ("fast", {"num_steps": math.nan}, "num_steps is nan"),
    ],
)
def test_get_settings_names_wrong_values(mode, overrides, message):
    with pytest.raises(ValueError, match=message):
        get_settings(mode, **overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"warm_start_steps": -1}, "warm_start_steps is -1; expected a whole number of at least 0"),
        (
            {"warm_start_steps": 2.0},
            "warm_start_steps is 2.0; expected a whole number of at least 0",
        ),
        ({"warm_start_steps": 120}, "warm_start_steps is 120 of 120 steps"),
        (
            {"warm_start_steps": 9, "num_steps": 9},
            "warm_start_steps is 9 of 9 steps, so no step is left for learning",
        ),
        ({"patience": 42}, "before step 122, which is warm_start_steps [+] warmup_steps"),
    ],
)
def test_get_settings_warm_start_leaves_steps_to_learn(overrides, message):
    with pytest.raises(ValueError, match=message):
        get_settings("region", **overrides)
    with pytest.raises(ValueError, match="warm_start_steps moves logits"):
        get_settings("bbmp", warm_start_steps=1)


def test_get_settings_requires_the_warm_up_to_end():
    with pytest.raises(
        ValueError, match="warmup_steps is 91 after 30 warm_start_steps, of 120 steps"
    ):
        get_settings("region", warmup_steps=91)
    assert get_settings("region", warmup_steps=90).warmup_steps == 90
    # Only a warm-up longer than that of the mode is checked: a trial may have just two steps.
    assert get_settings("region", num_steps=2, warmup_steps=8).num_steps == 2


@pytest.mark.parametrize(
    ("num_steps", "warm_start_steps"), [(1, 0), (2, 0), (7, 1), (16, 4), (60, 15), (240, 30)]
)
def test_get_settings_warm_start_takes_at_most_a_quarter_of_the_steps(num_steps, warm_start_steps):
    assert get_settings("region", num_steps=num_steps).warm_start_steps == warm_start_steps
    assert get_settings("region", num_steps=9, warm_start_steps=7).warm_start_steps == 7
    assert get_settings("paper", num_steps=num_steps).warm_start_steps == 0


def test_get_settings_accepts_numpy_numbers():
    settings = get_settings("region", num_steps=np.int64(7), learning_rate=np.float64(0.25))
    assert settings == get_settings("region", num_steps=7, learning_rate=0.25)
    assert type(settings.num_steps) is int
    with pytest.raises(ValueError, match=r"num_steps is 7\.0; expected a whole number"):
        get_settings("region", num_steps=np.float64(7))
