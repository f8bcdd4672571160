"""Random masks to train in-filling models on, like the masks that an explanation draws.

A mask is float32 `[H, W, 1]` of exact zeros and ones, 1 = keep, 0 = fill. Published in-painting
models are trained with one rectangle per image. The masks drawn while a Bernoulli keep mask is
learnt are salt and pepper: everywhere at first, later where the mask is undecided. All functions
are pure functions of a key, with static shapes: `jit` and `vmap` them over keys.
"""

from functools import partial

import jax
import jax.numpy as jnp

from cfx_jax.fido import upsample

# Share of each kind in `sample_mixture`. Fields are closest to the masks of an explanation.
KINDS = {
    "field": 0.40,
    "noise": 0.15,
    "blocks": 0.15,
    "rectangles": 0.10,
    "strokes": 0.10,
    "product": 0.10,
}
LEAST_KEEP, MOST_KEEP = 0.05, 0.95
COARSEST_GRID, FINEST_GRID = 7, 56
# Kinds on which in-fills are evaluated: the first masks of an explanation, and larger holes.
HELDOUT_KINDS = ("noise_50", "noise_20", "blocks_50", "strokes_30", "square")
SQUARE_SIDE = 96 / 224
MAX_RECTANGLES = 3
MAX_STROKES = 6
STROKE_SEGMENTS = 8


def sample(key: jax.Array, kind: str, size: tuple[int, int]) -> jax.Array:
    """Draws a mask of one kind.

    - `field`: a smooth random keep probability on a coarse grid, upsampled to the pixels, which are
      drawn independently;
    - `noise`: independent pixels, with one keep rate of 5 to 95 % per mask;
    - `blocks`: the same for the cells of a grid of 7 x 7 to 56 x 56;
    - `rectangles`: one to three holes, each of 10 to 60 % of either side;
    - `strokes`: two to six holes along the path of a brush;
    - `product`: pixels are kept where two masks of the kinds above both keep them.

    Args:
        key: JAX random key.
        kind: kind of mask, one of `KINDS`.
        size: image size `(H, W)`.

    Returns:
        Mask, float32 `[H, W, 1]` of zeros and ones, 1 = keep. All pixels may have the same value.

    Raises:
        ValueError: the kind is unknown.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 4)
        >>> jax.vmap(lambda key: sample(key, "field", (224, 224)))(keys).shape
        (4, 224, 224, 1)
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of mask {kind!r}; known are {', '.join(KINDS)}")
    drawn = _draw_pair(key, size).all(axis=0) if kind == "product" else _SAMPLERS[kind](key, size)
    return drawn[..., None].astype(jnp.float32)


def sample_mixture(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Draws a mask of a random kind, with the frequencies of `KINDS`.

    Under `jax.vmap`, all kinds are computed for each mask and one kind is selected; on a CPU,
    `jax.lax.map` over the keys computes only the selected kind.

    Args:
        key: JAX random key.
        size: image size `(H, W)`.

    Returns:
        Mask, float32 `[H, W, 1]` of zeros and ones, 1 = keep.
    """
    share_key, key = jax.random.split(key)
    first, second = _draw_pair(key, size)
    alone = jax.random.bernoulli(share_key, 1.0 - KINDS["product"])
    return (first & (second | alone))[..., None].astype(jnp.float32)


def sample_heldout(key: jax.Array, kind: str, size: tuple[int, int]) -> jax.Array:
    """Draws a mask of a kind on which in-fills are evaluated.

    - `noise_50`, `noise_20`: each pixel is kept independently with probability 0.5 or 0.2;
    - `blocks_50`: the same with 0.5 for the cells of a 56 x 56 grid;
    - `strokes_30`: the best of 32 draws of strokes, with holes closest to 30 % of the image;
    - `square`: a hole in the centre, 96 pixels wide in an image of 224.

    Args:
        key: JAX random key.
        kind: kind of mask, one of `HELDOUT_KINDS`.
        size: image size `(H, W)`.

    Returns:
        Mask, float32 `[H, W, 1]` of zeros and ones, 1 = keep.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind in ("noise_50", "noise_20"):
        kept = jax.random.bernoulli(key, int(kind[-2:]) / 100, size)
    elif kind == "blocks_50":
        cells = jax.random.bernoulli(key, 0.5, (FINEST_GRID, FINEST_GRID))
        rows, columns = (jnp.arange(pixels) * FINEST_GRID // pixels for pixels in size)
        kept = cells[rows[:, None], columns[None, :]]
    elif kind == "strokes_30":
        draws = jax.lax.map(lambda key: _strokes(key, size), jax.random.split(key, 32))
        kept = draws[jnp.argmin(jnp.abs(draws.mean((1, 2)) - 0.7))]
    elif kind == "square":
        rows, columns = (
            jnp.abs(jnp.arange(pixels) + 0.5 - pixels / 2) < SQUARE_SIDE * pixels / 2
            for pixels in size
        )
        kept = ~(rows[:, None] & columns[None, :])
    else:
        raise ValueError(f"unknown kind of mask {kind!r}; known are {', '.join(HELDOUT_KINDS)}")
    return kept[..., None].astype(jnp.float32)


def _draw_pair(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Draws two masks `[2, H, W]` of random kinds other than a product."""
    shares = jnp.asarray([KINDS[kind] for kind in _SAMPLERS])
    samplers = [partial(sampler, size=size) for sampler in _SAMPLERS.values()]

    def draw(key: jax.Array) -> jax.Array:
        choice_key, key = jax.random.split(key)
        choice = jax.random.categorical(choice_key, jnp.log(shares))
        return jax.lax.switch(choice, samplers, key)

    # A loop compiles every kind once instead of twice.
    return jax.lax.map(draw, jax.random.split(key))


def _noise(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    rate_key, key = jax.random.split(key)
    return jax.random.bernoulli(key, _keep_rate(rate_key), size)


def _blocks(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    rate_key, grid_key, key = jax.random.split(key, 3)
    finest = (min(FINEST_GRID, size[0]), min(FINEST_GRID, size[1]))
    cells = jax.random.bernoulli(key, _keep_rate(rate_key), finest)
    grid = _grid_size(grid_key, COARSEST_GRID)
    rows, columns = (
        jnp.arange(pixels) * jnp.minimum(grid, limit) // pixels
        for pixels, limit in zip(size, finest, strict=True)
    )
    return cells[rows[:, None], columns[None, :]]


def _field(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Draws `Bernoulli(upsample(sigmoid(mean + scale * field)))`.

    The scale ranges from 0 (one keep rate everywhere, as in the first step of an explanation) to 16
    (decided regions with a seam of undecided pixels, as in its last step).
    """
    mean_key, scale_key, grid_key, field_key, key = jax.random.split(key, 5)
    finest = (min(FINEST_GRID, size[0]), min(FINEST_GRID, size[1]))
    coarse = _grid_size(grid_key, 3)
    rows, columns = (_stretch(jnp.minimum(coarse, limit), limit) for limit in finest)
    field = rows @ jax.random.normal(field_key, finest) @ columns.T
    mean = 1.5 * jax.random.normal(mean_key)
    scale = 16.0 * jnp.square(jax.random.uniform(scale_key))
    keep_prob = upsample(jax.nn.sigmoid(mean + scale * field), size)
    return jax.random.bernoulli(key, keep_prob)


def _rectangles(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    count_key, side_key, place_key = jax.random.split(key, 3)
    used = jnp.arange(MAX_RECTANGLES) < jax.random.randint(count_key, (), 1, MAX_RECTANGLES + 1)
    sides = jax.random.uniform(side_key, (MAX_RECTANGLES, 2), minval=0.1, maxval=0.6)
    low = jax.random.uniform(place_key, (MAX_RECTANGLES, 2)) * (1.0 - sides)
    ys, xs = ((jnp.arange(pixels) + 0.5) / pixels for pixels in size)
    inside_y = (ys >= low[:, :1]) & (ys < low[:, :1] + sides[:, :1])
    inside_x = (xs >= low[:, 1:]) & (xs < low[:, 1:] + sides[:, 1:])
    inside = inside_y[:, :, None] & inside_x[:, None, :] & used[:, None, None]
    return ~inside.any(axis=0)


def _strokes(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Draws strokes: holes within a brush radius of paths that turn slightly at each step.

    Lengths are in units of the image's shorter side.
    """
    count_key, start_key, turn_key, step_key, radius_key = jax.random.split(key, 5)
    path = (MAX_STROKES, STROKE_SEGMENTS)
    extent = jnp.asarray(size) / min(size)
    start = jax.random.uniform(start_key, (MAX_STROKES, 1, 2)) * extent
    # The first turn has a large spread, so that the initial direction is nearly uniform.
    turns = jax.random.normal(turn_key, path) * jnp.where(jnp.arange(path[1]) == 0, 6.0, 0.7)
    angles = jnp.cumsum(turns, axis=1)
    steps = jax.random.uniform(step_key, path, minval=0.05, maxval=0.2)
    moves = steps[..., None] * jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    starts = start + jnp.cumsum(moves, axis=1) - moves
    radius = jax.random.uniform(radius_key, (MAX_STROKES,), minval=0.03, maxval=0.09)
    used = jnp.arange(MAX_STROKES) < jax.random.randint(count_key, (), 2, MAX_STROKES + 1)
    reach = jnp.repeat(jnp.where(used, radius, -1.0), STROKE_SEGMENTS)

    y, x = jnp.meshgrid(*((jnp.arange(n) + 0.5) / min(size) for n in size), indexing="ij")
    (start_y, start_x), (move_y, move_x) = starts.reshape(-1, 2).T, moves.reshape(-1, 2).T
    from_y, from_x = y[..., None] - start_y, x[..., None] - start_x
    along = (from_y * move_y + from_x * move_x) / (move_y**2 + move_x**2)
    along = jnp.clip(along, 0.0, 1.0)
    distance = jnp.hypot(from_y - along * move_y, from_x - along * move_x)
    return (distance > reach).all(axis=-1)


_SAMPLERS = {
    "field": _field,
    "noise": _noise,
    "blocks": _blocks,
    "rectangles": _rectangles,
    "strokes": _strokes,
}


def _keep_rate(key: jax.Array) -> jax.Array:
    return jax.random.uniform(key, minval=LEAST_KEEP, maxval=MOST_KEEP)


def _grid_size(key: jax.Array, coarsest: int) -> jax.Array:
    """Draws a number of cells up to `FINEST_GRID`, uniform in its logarithm."""
    span = jnp.log(jnp.asarray([coarsest, FINEST_GRID + 1.0]))
    cells = jnp.exp(jax.random.uniform(key, minval=span[0], maxval=span[1]))
    return jnp.clip(cells.astype(jnp.int32), coarsest, FINEST_GRID)


def _stretch(cells: jax.Array, limit: int) -> jax.Array:
    """Returns bilinear weights `[limit, limit]` that stretch the first `cells` cells to all cells.

    The weights in `cfx_jax.fido.resampling` need sizes known before tracing; here `cells` is
    random.
    """
    position = jnp.linspace(0.0, 1.0, limit) * (cells - 1)
    return jnp.maximum(0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(limit)))
