"""Learnt masks of other papers as maps; each function takes ONE image `[H, W, C]`."""

import jax
import jax.numpy as jnp

from cfx_jax.baselines.case import Case
from cfx_jax.fido import AREAS, MODES, get_settings, make_problem, solve, solve_areas


def bbmp_ssr(case: Case) -> jax.Array:
    """Returns the deterministic mask that preserves the decision (Fong and Vedaldi, 2017).

    This is mode `bbmp` of `explain` with the lambda of mode `fast`. The lambda of `bbmp` was chosen
    for more confident classifiers; with it, the optimum of SDR is often to change nothing. The
    in-fill must also differ from the image in kept pixels, like a blurred image: the mask starts by
    keeping everything, and the gradient is zero where the in-fill equals the image.
    """
    return _bbmp(case, "ssr")


def bbmp_sdr(case: Case) -> jax.Array:
    """Returns the deterministic mask that changes the decision (Fong and Vedaldi, 2017)."""
    return _bbmp(case, "sdr")


def extremal(case: Case) -> jax.Array:
    """Returns the mean of the preserving masks of four areas (Fong et al., 2019)."""
    problem = make_problem(case.key, case.image, case.question, "ssr")
    masks = solve_areas(problem, case.classifier, case.generator, jnp.asarray(AREAS))
    return masks.importance.mean(axis=0)


def _bbmp(case: Case, objective: str) -> jax.Array:
    problem = make_problem(case.key, case.image, case.question, objective)
    settings = get_settings(
        "bbmp",
        sparsity_weight=MODES["fast"].sparsity_weight,
        mask_size=min(MODES["bbmp"].mask_size, *problem.image.shape[:2]),
    )
    return solve(problem, case.classifier, case.generator, settings=settings).saliency
