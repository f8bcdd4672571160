"""Sources of examples, and batches of them for this host, decoded ahead of the devices."""

from cfx_jax.data.demo import demo_images
from cfx_jax.data.digests import UNREADABLE
from cfx_jax.data.images import (
    Resize,
    UnreadableImageError,
    open_file,
    reading,
    to_floats,
    to_grey,
    to_rgb,
)
from cfx_jax.data.labels import find_class
from cfx_jax.data.listing import list_images, match_forms
from cfx_jax.data.loader import Examples, load_units
from cfx_jax.data.output_folder import (
    check_output_folder,
    check_output_folder_of_run,
)
from cfx_jax.data.source import UNKNOWN_LABEL, Source, expand_top_classes
from cfx_jax.data.sources import check_there, open_source, resize_for

__all__ = [
    "UNKNOWN_LABEL",
    "UNREADABLE",
    "Examples",
    "Resize",
    "Source",
    "UnreadableImageError",
    "check_output_folder",
    "check_output_folder_of_run",
    "check_there",
    "demo_images",
    "expand_top_classes",
    "find_class",
    "list_images",
    "load_units",
    "match_forms",
    "open_file",
    "open_source",
    "reading",
    "resize_for",
    "to_floats",
    "to_grey",
    "to_rgb",
]
