"""Training masks: the statistics of each kind, and properties of all kinds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cfx_jax.train import masks

SIZE = (101, 112)
COUNT = 128


@functools.cache
def compiled(kind, size):
    """Compiles `keys -> [count, H, W, 1]` for a kind, or for the mixture for None."""
    if kind is None:
        return jax.jit(lambda keys: jax.lax.map(lambda k: masks.sample_mixture(k, size), keys))
    return jax.jit(lambda keys: jax.lax.map(lambda k: masks.sample(k, kind, size), keys))


def draw(kind, size=SIZE, count=COUNT):
    """Draws masks `[count, H, W]`."""
    return np.asarray(compiled(kind, size)(jax.random.split(jax.random.key(0), count)))[..., 0]


@pytest.fixture(scope="module", params=[*masks.KINDS, None], ids=[*masks.KINDS, "mixture"])
def drawn(request):
    return request.param, draw(request.param)


def test_sample_gives_zeros_and_ones_in_float32(drawn):
    _, result = drawn
    assert result.dtype == np.float32
    assert result.shape == (COUNT, *SIZE)
    assert set(np.unique(result)) == {0.0, 1.0}


# Mean over masks, and the range of single masks.
KEEP_RATES = {
    "field": (0.50, 0.0, 1.0),
    "noise": (0.50, 0.03, 0.97),
    "blocks": (0.50, 0.0, 1.0),
    "rectangles": (0.78, 0.2, 0.99),
    "strokes": (0.70, 0.2, 1.0),
    "product": (0.30, 0.0, 1.0),
    None: (0.54, 0.0, 1.0),
}


def test_sample_keep_rates(drawn):
    kind, result = drawn
    mean, low, high = KEEP_RATES[kind]
    rates = result.mean((1, 2))
    assert rates.mean() == pytest.approx(mean, abs=0.07)
    assert rates.min() >= low
    assert rates.max() <= high
    assert rates.std() > 0.05


def test_sample_noise_has_all_keep_rates_and_independent_pixels():
    result = draw("noise", count=512)
    rates = result.mean((1, 2))
    # Uniform on [0.05, 0.95]: a tenth of the masks in each tenth of the range.
    shares = np.histogram(rates, np.linspace(0.05, 0.95, 4))[0] / len(rates)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.07)
    centred = result - rates[:, None, None]
    assert abs((centred[:, 1:] * centred[:, :-1]).mean()) < 3e-3
    assert abs((centred[:, :, 1:] * centred[:, :, :-1]).mean()) < 3e-3


def test_sample_blocks_are_constant_on_one_grid():
    grids = []
    for mask in draw("blocks"):
        fitting = [
            grid
            for grid in range(masks.COARSEST_GRID, masks.FINEST_GRID + 1)
            if is_constant_on_grid(mask, grid)
        ]
        assert fitting
        grids.append(fitting[0])
    assert min(grids) < 12
    assert max(grids) > 40


def is_constant_on_grid(mask, grid):
    cells = [np.arange(pixels) * grid // pixels for pixels in mask.shape]
    corners = [np.searchsorted(cell, np.arange(grid)) for cell in cells]
    return np.array_equal(mask, mask[np.ix_(*corners)][np.ix_(*cells)])


def test_sample_field_draws_pixels_from_a_smooth_probability():
    result = draw("field", count=256)
    centred = result - result.mean((1, 2), keepdims=True)
    near = (centred[:, 1:] * centred[:, :-1]).mean()
    far = (centred[:, 28:] * centred[:, :-28]).mean()
    assert near > 0.05
    assert abs(far) < near / 4
    # Undecided masks are salt and pepper, decided ones have large regions of one value.
    agreement = (result[:, 1:] == result[:, :-1]).mean((1, 2))
    assert np.quantile(agreement, 0.1) < 0.65
    assert np.quantile(agreement, 0.9) > 0.85


def test_sample_rectangles_have_straight_edges():
    for mask in draw("rectangles"):
        holes, count = ndimage.label(mask == 0)
        assert 1 <= count <= masks.MAX_RECTANGLES
        # A union of at most three rectangles has at most six edges along any line.
        assert (np.diff(mask, axis=0) != 0).sum(axis=0).max() <= 6
        if count == masks.MAX_RECTANGLES:
            for box in ndimage.find_objects(holes):
                assert (mask[box] == 0).all()


def test_sample_strokes_are_a_few_thick_lines():
    for mask in draw("strokes"):
        hole = mask == 0
        assert ndimage.label(hole, np.ones((3, 3)))[1] <= masks.MAX_STROKES
        # No thinner than the thinnest brush: the hole survives an opening by half of it.
        if hole.any():
            inner = np.pad(hole, 4, mode="edge")
            assert ndimage.binary_opening(inner, iterations=1).sum() > 0.9 * inner.sum()


def test_sample_mixture_has_the_shares_of_its_kinds():
    assert sum(masks.KINDS.values()) == pytest.approx(1.0)
    assert max(masks.KINDS, key=masks.KINDS.__getitem__) == "field"
    # Only rectangles and strokes keep most of the image and fill few pieces of it.
    few = np.mean(
        [
            mask.mean() > 0.45 and 1 <= ndimage.label(mask == 0)[1] <= masks.MAX_STROKES
            for mask in draw(None, count=384)
        ]
    )
    assert few == pytest.approx(masks.KINDS["rectangles"] + masks.KINDS["strokes"], abs=0.06)


@pytest.mark.parametrize("size", [(28, 28), (1, 9), (96, 8)])
@pytest.mark.parametrize("kind", [*masks.KINDS])
def test_sample_accepts_any_size(kind, size):
    mask = jax.eval_shape(lambda key: masks.sample(key, kind, size), jax.random.key(0))
    assert mask.shape == (*size, 1)
    assert mask.dtype == jnp.float32


def test_sample_repeats_with_its_key_alone_and_uncompiled():
    key = jax.random.split(jax.random.key(0), COUNT)[3]
    alone = masks.sample(key, "field", SIZE)
    np.testing.assert_array_equal(np.asarray(alone)[..., 0], draw("field")[3])


def test_sample_with_another_key_gives_another_mask(drawn):
    _, batch = drawn
    assert len(np.unique(batch.reshape(COUNT, -1), axis=0)) > 0.9 * COUNT


def test_sample_mixture_vmap_over_keys_equals_a_map():
    keys = jax.random.split(jax.random.key(0), COUNT)[:4]
    batched = jax.jit(jax.vmap(lambda key: masks.sample_mixture(key, SIZE)))(keys)
    np.testing.assert_array_equal(np.asarray(batched)[..., 0], draw(None)[:4])


def test_sample_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match=r"unknown kind of mask 'circles'; known are field, noise"):
        masks.sample(jax.random.key(0), "circles", SIZE)


# Masks to measure on.


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("noise_50", 0.5),
        ("noise_20", 0.2),
        ("blocks_50", 0.5),
        ("strokes_30", 0.7),
        ("square", 1 - (96 / 224) ** 2),
    ],
)
def test_sample_heldout_keeps_the_named_share(kind, kept):
    mask = np.asarray(masks.sample_heldout(jax.random.key(3), kind, (224, 224)))
    assert mask.shape == (224, 224, 1)
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert abs(mask.mean() - kept) < 0.03


def test_sample_heldout_sizes_of_blocks_and_square():
    blocks = np.asarray(masks.sample_heldout(jax.random.key(3), "blocks_50", (224, 224)))
    np.testing.assert_array_equal(blocks, blocks[::4, ::4].repeat(4, axis=0).repeat(4, axis=1))
    square = np.asarray(masks.sample_heldout(jax.random.key(3), "square", (224, 224)))
    assert (square[64:160, 64:160] == 0).all()
    assert (square == 0).sum() == 96**2


def test_sample_heldout_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match=r"unknown kind of mask 'holes'; known are noise_50"):
        masks.sample_heldout(jax.random.key(0), "holes", (16, 16))
