"""Explains image classifiers in JAX by learning which region decides.

For every image a Bernoulli mask is learnt such that replacing the masked region by what a
generative model finds plausible there changes the classifier's decision most (SDR) or preserves it
with the least evidence (SSR).
"""

import importlib
from typing import TYPE_CHECKING, Any

from cfx_jax.classifiers import Classifier
from cfx_jax.fido import Explanation, Settings, Status, explain, explain_both, explain_one
from cfx_jax.generators import Generator, infill
from cfx_jax.registry import load_classifier, load_generator
from cfx_jax.version import __version__ as __version__

# What reads images and shows progress is imported when it is asked for.
_LAZY = {"demo_images": "cfx_jax.data.demo", "run": "cfx_jax.runs.runner"}

if TYPE_CHECKING:
    from cfx_jax.data import demo_images
    from cfx_jax.runs import run
else:
    # Type checkers would take any name for one that there is.
    def __getattr__(name: str) -> Any:
        """Returns what is imported late."""
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)


def _to_html(explanation: Explanation) -> str:
    """A table for notebooks; `cfx_jax.report.figure` draws more."""
    from cfx_jax.report import to_html

    return to_html(explanation)


# Notebooks look for it; what draws is imported when they do.
Explanation._repr_html_ = _to_html  # type: ignore[attr-defined]

__all__ = [
    "Classifier",
    "Explanation",
    "Generator",
    "Settings",
    "Status",
    "demo_images",
    "explain",
    "explain_both",
    "explain_one",
    "infill",
    "load_classifier",
    "load_generator",
    "run",
]
