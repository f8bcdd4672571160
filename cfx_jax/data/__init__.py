"""Example sources and this host's batches of them, decoded ahead of the devices."""

from cfx_jax.data.images import Resize, UnreadableImageError
from cfx_jax.data.loader import Examples, load_units
from cfx_jax.data.source import UNKNOWN_LABEL, Source, expand_top_classes
from cfx_jax.data.sources import check_there, open_source, resize_for

__all__ = [
    "UNKNOWN_LABEL",
    "Examples",
    "Resize",
    "Source",
    "UnreadableImageError",
    "check_there",
    "expand_top_classes",
    "load_units",
    "open_source",
    "resize_for",
]
