"""Pictures, figures, tables and the gallery of runs; no accelerator needed."""

from cfx_jax.report import page, pictures
from cfx_jax.report.export import FORMATS, export_pictures, export_table
from cfx_jax.report.gallery import write_gallery
from cfx_jax.report.notebook import figure
from cfx_jax.report.show import to_html

__all__ = [
    "FORMATS",
    "export_pictures",
    "export_table",
    "figure",
    "page",
    "pictures",
    "to_html",
    "write_gallery",
]
