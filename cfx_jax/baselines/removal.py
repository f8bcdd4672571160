"""Maps from the predictions for an image with parts removed; each takes ONE image `[H, W, C]`."""

import jax
import jax.numpy as jnp

from cfx_jax.baselines.case import Case
from cfx_jax.fido import classify_infilled, make_problem


def occlusion(case: Case, num_windows: int = 14) -> jax.Array:
    """Returns p_b, the fall of the log-odds when a window is in-filled.

    The value of a pixel is the mean over all windows that contain it. Source: prediction difference
    analysis (Zintgraf et al., 2017) in the form of the FIDO code. Windows are a seventh of the
    image wide and overlap by half.
    """
    height, width = case.image.shape[:2]
    tall, wide = max(1, 2 * height // num_windows), max(1, 2 * width // num_windows)
    problem = make_problem(case.key, case.image, case.question, "sdr")
    logits = case.classifier.apply(case.classifier.params, case.image[None])[0]
    before = case.question.log_odds(logits, case.classifier)
    tops, lefts = (
        jnp.round(jnp.linspace(0, length - side, min(num_windows, length - side + 1)))
        for length, side in ((height, tall), (width, wide))
    )
    rows, columns = jnp.arange(height), jnp.arange(width)

    def evaluate_window(corner: jax.Array) -> tuple[jax.Array, jax.Array]:
        down = (rows >= corner[0]) & (rows < corner[0] + tall)
        across = (columns >= corner[1]) & (columns < corner[1] + wide)
        window = (down[:, None] & across[None, :]).astype(jnp.float32)
        keep = 1.0 - window[None, ..., None]
        _, logits = classify_infilled(
            problem, keep, keep, problem.key, case.classifier, case.generator
        )
        return (before - case.question.log_odds(logits[0], case.classifier)) * window, window

    def add(sums: tuple[jax.Array, jax.Array], corner: jax.Array) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, sums, evaluate_window(corner)), None

    corners = jnp.stack(jnp.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)
    blank = jnp.zeros((height, width))
    (falls, covered), _ = jax.lax.scan(add, (blank, blank), corners)
    return falls / covered


def rise(case: Case, num_masks: int = 1000, cells: int = 7) -> jax.Array:
    """Returns the mean of random masks, weighted by the probability (Petsiuk et al., BMVC 2018).

    The masks have 7 x 7 cells, each kept with probability 1/2, upsampled and shifted at random.
    Differs from the paper in that masked pixels are in-filled: the hole for the generator is where
    the soft mask is below 1/2, and the soft mask blends the image with the in-fill.
    """
    height, width = case.image.shape[:2]
    side = -(-max(height, width) // cells)
    large = (cells + 1) * side

    def add_mask(sums: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        cell_key, shift_key, fill_key = jax.random.split(key, 3)
        kept = jax.random.bernoulli(cell_key, 0.5, (cells + 1, cells + 1)).astype(jnp.float32)
        smooth = jax.image.resize(kept, (large, large), "linear")
        start = jax.random.randint(shift_key, (2,), 0, side)
        mask = jax.lax.dynamic_slice(smooth, tuple(start), (height, width))[None, ..., None]
        problem = make_problem(fill_key, case.image, case.question, "ssr")
        _, logits = classify_infilled(
            problem, mask, jnp.round(mask), fill_key, case.classifier, case.generator
        )
        probability = jax.nn.sigmoid(case.question.log_odds(logits[0], case.classifier))
        return sums + probability * mask[0, ..., 0], None

    sums, _ = jax.lax.scan(
        add_mask, jnp.zeros((height, width)), jax.random.split(case.key, num_masks)
    )
    return sums / (0.5 * num_masks)
