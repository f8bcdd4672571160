"""FIDO for one image and its vmap: pure functions for mask law, objective and optimisation."""

from cfx_jax.fido.alternatives import check_alternative, extra_prices
from cfx_jax.fido.api import explain, explain_both, explain_one
from cfx_jax.fido.areas import AREAS, solve_areas
from cfx_jax.fido.batch import make_question, prepare
from cfx_jax.fido.checks import (
    check_classes,
    check_problem,
    count_classes,
    find_empty,
)
from cfx_jax.fido.explanation import (
    NUM_TOP,
    REGION_THRESHOLD,
    Explanation,
    Status,
    find_direction,
    label_result,
    name_results,
    saliency,
)
from cfx_jax.fido.hard_masks import NUM_FULL_INFILLS, NUM_HARD_MASKS, evaluate_hard_masks
from cfx_jax.fido.masks import KeepMap, MaskLaw, Relaxation, rank_pixels
from cfx_jax.fido.objective import (
    DIRECTIONS,
    SSR,
    Problem,
    classify_infilled,
    composite,
    make_problem,
    price_allowed,
    succeeds,
)
from cfx_jax.fido.optimisation import State, advance, init, is_done
from cfx_jax.fido.precision import in_bfloat16
from cfx_jax.fido.question import Question, Score
from cfx_jax.fido.resampling import upsample
from cfx_jax.fido.settings import MODES, Settings, get_settings
from cfx_jax.fido.solution import finish, solve

__all__ = [
    "AREAS",
    "DIRECTIONS",
    "MODES",
    "NUM_FULL_INFILLS",
    "NUM_HARD_MASKS",
    "NUM_TOP",
    "REGION_THRESHOLD",
    "SSR",
    "Explanation",
    "KeepMap",
    "MaskLaw",
    "Problem",
    "Question",
    "Relaxation",
    "Score",
    "Settings",
    "State",
    "Status",
    "advance",
    "check_alternative",
    "check_classes",
    "check_problem",
    "classify_infilled",
    "composite",
    "count_classes",
    "evaluate_hard_masks",
    "explain",
    "explain_both",
    "explain_one",
    "extra_prices",
    "find_direction",
    "find_empty",
    "finish",
    "get_settings",
    "in_bfloat16",
    "init",
    "is_done",
    "label_result",
    "make_problem",
    "make_question",
    "name_results",
    "prepare",
    "price_allowed",
    "rank_pixels",
    "saliency",
    "solve",
    "solve_areas",
    "succeeds",
    "upsample",
]
