"""Mixes several generators into one, so that a mask does not exploit a single in-fill."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cfx_jax.generators.base import Generator


def mix(generators: Sequence[Generator]) -> Generator:
    """Combines generators into one that fills the images of a batch with each of them in turn.

    The key draws the generator of the first image, and the following images get the following
    generators, so that they share the S masks of a step evenly. All generators fill every image and
    one of the in-fills is selected, so a step has the cost of all generators together; heuristics
    cost very little.

    Args:
        generators: at least one generator, all for the same images.

    Returns:
        A `Generator` whose parameters are the tuple of all parameters, with the name `a+b`. It is
        `scalable` if all of them are.

    Raises:
        ValueError: no generator is given.

    Example:
        >>> import jax, jax.numpy as jnp, cfx_jax
        >>> both = mix([cfx_jax.load_generator("grey"), cfx_jax.load_generator("blur")])
        >>> images, mask = jnp.ones((2, 8, 8, 3)), jnp.zeros((2, 8, 8, 1))
        >>> filled = both.apply(both.params, images, mask, jax.random.key(0))
        >>> both.name, sorted(round(float(x.mean()), 2) for x in filled)
        ('grey+blur', [0.45, 1.0])
    """
    if not generators:
        raise ValueError("there are no generators to mix; pass one or more")
    return Generator(
        params=tuple(generator.params for generator in generators),
        apply=_Mixture(tuple(generator.apply for generator in generators)),
        name="+".join(generator.name for generator in generators),
        scalable=all(generator.scalable for generator in generators),
    )


@dataclasses.dataclass(frozen=True)
class _Mixture:
    """Mixed `apply` functions; equal for equal functions, so that programs are reused."""

    applies: tuple[Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array], ...]

    def __call__(
        self, params: Sequence[Any], images: jax.Array, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        count = len(self.applies)
        first_key, *keys = jax.random.split(key, 1 + count)
        infills = jnp.stack(
            [
                apply(p, images, mask, fill_key)
                for apply, p, fill_key in zip(self.applies, params, keys, strict=True)
            ]
        )
        first = jax.random.randint(first_key, (), 0, count, jnp.int32)
        index = (first + jnp.arange(len(images))) % count
        return jnp.take_along_axis(infills, index[None, :, None, None, None], axis=0)[0]
