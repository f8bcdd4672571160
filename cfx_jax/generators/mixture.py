"""Several in-fills as one: a mask that is learnt with all of them is no trick of one."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cfx_jax.generators.base import Generator


def mix(generators: Sequence[Generator]) -> Generator:
    """Makes one generator of several, which fill the images of a batch in turn.

    The first image is filled by one that is drawn by the key, the next by the next one: of the S
    masks of a step each fills its share. All of them fill every image and one of the pictures is
    taken, so a step costs what all together cost; heuristics cost next to nothing.

    Args:
        generators: at least one, of the same images.

    Returns:
        A `Generator` whose parameters are a tuple of theirs, called `a+b`.

    Raises:
        ValueError: there is none.

    Example:
        >>> import jax, jax.numpy as jnp, cfx_jax
        >>> both = mix([cfx_jax.load_generator("grey"), cfx_jax.load_generator("blur")])
        >>> images, mask = jnp.ones((2, 8, 8, 3)), jnp.zeros((2, 8, 8, 1))
        >>> filled = both.apply(both.params, images, mask, jax.random.key(0))
        >>> both.name, sorted(round(float(x.mean()), 2) for x in filled)
        ('grey+blur', [0.45, 1.0])
    """
    if not generators:
        raise ValueError("there are no generators to take in turn; give one or more")
    return Generator(
        params=tuple(generator.params for generator in generators),
        apply=_Mixture(tuple(generator.apply for generator in generators)),
        name="+".join(generator.name for generator in generators),
    )


@dataclasses.dataclass(frozen=True)
class _Mixture:
    """Equal for equal functions, so that programs compiled for one serve the other."""

    applies: tuple[Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array], ...]

    def __call__(
        self, params: Sequence[Any], images: jax.Array, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        count = len(self.applies)
        first_key, *keys = jax.random.split(key, 1 + count)
        infills = jnp.stack(
            [
                apply(p, images, mask, own)
                for apply, p, own in zip(self.applies, params, keys, strict=True)
            ]
        )
        first = jax.random.randint(first_key, (), 0, count, jnp.int32)
        turn = (first + jnp.arange(len(images))) % count
        return jnp.take_along_axis(infills, turn[None, :, None, None, None], axis=0)[0]
