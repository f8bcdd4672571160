"""In-filling generators: pure `apply(params, images, mask, key) -> infill` functions."""

from cfx_jax.generators.base import Generator

__all__ = ["Generator"]
