"""What people look at: pictures, figures, the gallery and tables of runs; no accelerator needed."""

from cfx_jax.report.notebook import figure

__all__ = ["figure"]
