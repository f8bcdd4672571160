"""In-fill models: pure functions `apply(params, images, mask, key) -> infill`, and their losses."""

from cfx_jax.generators import contextual_attention, gated_unet, heuristic, patch_critic, vae
from cfx_jax.generators.base import Generator
from cfx_jax.generators.checks import (
    check_fills,
    check_images,
    check_infills,
    check_key,
    check_pixels,
    one_line,
    to_array,
)
from cfx_jax.generators.half_resolution import infill_at_half_resolution
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
    "check_key",
    "check_pixels",
    "contextual_attention",
    "gated_unet",
    "heuristic",
    "infill",
    "infill_at_half_resolution",
    "mix",
    "one_line",
    "patch_critic",
    "to_array",
    "vae",
]
