"""Maps that are learnt masks of other papers; each is of ONE image `[H, W, C]`."""

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido import (
    AREAS,
    MODES,
    Problem,
    Question,
    get_settings,
    make_problem,
    solve,
    solve_areas,
)
from cfx_jax.generators import Generator


def bbmp_ssr(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
) -> jax.Array:
    """The one mask that keeps the decision with little of the image (Fong and Vedaldi, 2017).

    Mode `bbmp` of `explain`, at the price of mode `fast`: at its own, which is for classifiers that
    are surer, to change nothing is cheapest for SDR. The in-fill has to differ from the image where
    nothing is a hole yet, as a blurred one does: the mask begins whole, and one that is filled with
    itself has no slope.
    """
    return _bbmp(make_problem(key, image, question, "ssr"), classifier, generator)


def bbmp_sdr(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
) -> jax.Array:
    """The one mask that changes the decision by removing little (Fong and Vedaldi, 2017)."""
    return _bbmp(make_problem(key, image, question, "sdr"), classifier, generator)


def extremal(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
) -> jax.Array:
    """The mean of the masks of four areas that preserve the decision best (Fong et al., 2019)."""
    problem = make_problem(key, image, question, "ssr")
    masks = solve_areas(problem, classifier, generator, jnp.asarray(AREAS))
    return masks.importance.mean(axis=0)


def _bbmp(problem: Problem, classifier: Classifier, generator: Generator) -> jax.Array:
    settings = get_settings(
        "bbmp",
        sparsity_weight=MODES["fast"].sparsity_weight,
        mask_size=min(MODES["bbmp"].mask_size, *problem.image.shape[:2]),
    )
    return solve(problem, classifier, generator, settings=settings).saliency
