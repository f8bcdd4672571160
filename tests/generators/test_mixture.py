"""A mixture of several generators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax import Generator, load_generator
from cfx_jax.generators import mix


def fill(params, images, mask, key):
    return jnp.full_like(images, params)


@pytest.fixture
def three():
    return mix([Generator(params=p, apply=fill, name=str(p)) for p in (0.0, 0.5, 1.0)])


@pytest.mark.parametrize("number", [1, 3, 7])
def test_mix_gives_each_generator_its_share_in_turn(three, number):
    images, mask = jnp.ones((number, 4, 4, 3)) / 4, jnp.zeros((number, 4, 4, 1))
    firsts = set()
    for seed in range(20):
        filled = np.asarray(three.apply(three.params, images, mask, jax.random.key(seed)))
        values = filled[:, 0, 0, 0]
        np.testing.assert_array_equal(filled, values[:, None, None, None] * np.ones((4, 4, 3)))
        turn = (2 * values).astype(int)
        np.testing.assert_array_equal(turn, (turn[0] + np.arange(number)) % 3)
        firsts.add(turn[0])
    assert firsts == {0, 1, 2}


def test_mix_is_available_by_name():
    both = load_generator("grey+blur")
    assert both.name == "grey+blur"
    with pytest.raises(
        ValueError, match=r"names several generators, but some\.file contains the weights of one"
    ):
        load_generator("grey+blur", "some.file")
    with pytest.raises(ValueError, match="unknown generator 'red'"):
        load_generator("grey+red")
    with pytest.raises(ValueError, match="no generators"):
        mix([])
