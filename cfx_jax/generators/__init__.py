"""In-filling models: pure `apply(params, images, mask, key) -> infill`, and their losses."""

from cfx_jax.generators.base import Generator
from cfx_jax.generators.checks import check_fills, check_images, check_infills
from cfx_jax.generators.infilling import blend, infill
from cfx_jax.generators.losses import Loss
from cfx_jax.generators.mixture import mix

__all__ = [
    "Generator",
    "Loss",
    "blend",
    "check_fills",
    "check_images",
    "check_infills",
    "infill",
    "mix",
]
