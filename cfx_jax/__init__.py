"""Explains image classifiers in JAX by learning which region of an image decides.

For every image a Bernoulli mask is learnt. The region outside of the mask is in-filled by a
generative model. The mask either keeps the smallest region that preserves the prediction (SSR), or
drops the smallest region whose in-filling flips it (SDR).
"""

import importlib
from typing import TYPE_CHECKING, Any

from cfx_jax.classifiers import Classifier
from cfx_jax.fido import Explanation, Settings, Status, explain, explain_both, explain_one
from cfx_jax.generators import Generator, infill
from cfx_jax.registry import load_classifier, load_generator
from cfx_jax.version import __version__ as __version__

# These modules, which read images and report progress, are imported at their first use.
_LAZY = {"demo_images": "cfx_jax.data.demo", "run": "cfx_jax.runs.runner"}
_LAZY_PACKAGES = ("report",)

if TYPE_CHECKING:
    from cfx_jax import report as report
    from cfx_jax.data import demo_images
    from cfx_jax.runs import run
else:
    # Hidden from type checkers, which would otherwise accept any name as an attribute.
    def __getattr__(name: str) -> Any:
        """Imports and returns a lazy attribute."""
        if name in _LAZY_PACKAGES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)


def _to_html(explanation: Explanation) -> str:
    """Returns an HTML table for notebooks; `cfx_jax.report.figure` draws more."""
    from cfx_jax.report import to_html

    return to_html(explanation)


# Notebooks call this method; the drawing code is imported only then.
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
