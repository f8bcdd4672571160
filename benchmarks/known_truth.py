"""Compares regions with the smallest possible ones, on images for which those are known exactly.

    python benchmarks/known_truth.py [--modes region fast] [--set num_steps=120 mask_size=28] \
        [--num_images=32] [--keys 0 1] [--size=64] [--seed=0] [--cases one and or_both]
    python benchmarks/known_truth.py --alternatives [--seed=0]

An analytic classifier counts the pixels of each colour. A colour is present if enough pixels of its
disc are kept, and the class is a logical function of the colours that are present: one colour, AND,
OR, two of three. In the case `texture`, every pixel of the image counts. The in-fill is grey, a
colour that no class counts. The logit margin depends only on the number of pixels kept of each
disc, so the smallest set of pixels that keeps the class (SSR), or whose in-filling flips it (SDR),
follows by enumerating these numbers.

Columns:
    area/least: area of the region (saliency above 1/2) divided by that of the smallest set, median.
    reserve: the same, for the smallest set with the logit margin that `confidence` requires.
    mean: mean of area/least.
    on parts: share of the region that lies on discs that the class depends on.
    success: share of images whose region keeps (SSR) or flips (SDR) the prediction.
    OK: share of explanations with this status.
    IoU keys: mean IoU of the regions of an image with two keys.
    IoU noise: mean IoU of the regions of an image and of the image with noise of up to 1/255 per
        pixel.
    answers: for each set of discs, the number of regions that cover more than a seventh of exactly
        these discs. It shows which of several smallest sets is found.

`--alternatives` searches for two regions where two answers exist: either of two discs suffices
(SSR), or is enough to flip the class (SDR). It prints the share of images for which both are found.

FunnyBirds (Hesse et al., ICCV 2023) compares explanations with minimal sufficient sets of parts of
rendered birds, for trained networks; here the sets are known to the pixel.
"""

import argparse
import ast
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from cfx_jax import Classifier, Explanation, Status, explain, explain_both, load_generator
from cfx_jax.fido import Settings, get_settings

COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "blue": (0.1, 0.1, 0.9),
    "green": (0.1, 0.8, 0.1),
    "yellow": (0.9, 0.9, 0.1),
    "cyan": (0.1, 0.9, 0.9),
    "magenta": (0.9, 0.1, 0.9),
}
# Share of the pixels of a disc from which on it counts as present, and steepness of this threshold.
_PRESENT, _STEEPNESS = 0.7, 15.0
# Share of the image from which on the texture counts as present.
_TEXTURE_SHARE = 0.4
# Largest number of combinations of pixel counts that are enumerated; on larger images some counts
# are skipped.
_MAX_COMBINATIONS = 1e7
# Attempts to place discs so that they do not touch.
_MAX_DRAWS = 10_000


class Case(NamedTuple):
    """A class that depends on the discs in an image.

    Attributes:
        discs: colours of the discs that the class depends on.
        others: colours of further discs, on which the class does not depend.
        area: area of a disc, as a share of the image.
        presence: differentiable logical function: maps the presences `[P, ...]` of the discs, in
            [0, 1], to the presence of the class.
    """

    discs: tuple[str, ...]
    others: tuple[str, ...]
    area: float
    presence: Callable[[Any], Any]


def _at_least_one(p: Any) -> Any:
    return 1.0 - (1.0 - p[0]) * (1.0 - p[1])


def _two_of_three(p: Any) -> Any:
    return p[0] * p[1] + p[0] * p[2] + p[1] * p[2] - 2.0 * p[0] * p[1] * p[2]


CASES = {
    "one": Case(("red",), (), 0.05, lambda p: p[0]),
    "one_small": Case(("red",), (), 0.02, lambda p: p[0]),
    "one_large": Case(("red",), (), 0.2, lambda p: p[0]),
    "distractor": Case(("red",), ("magenta", "cyan"), 0.05, lambda p: p[0]),
    "and": Case(("red", "blue"), ("magenta",), 0.05, lambda p: p[0] * p[1]),
    "or_one": Case(("green",), ("magenta",), 0.05, lambda p: p[0]),
    "or_both": Case(("green", "yellow"), ("magenta",), 0.05, _at_least_one),
    "two_of_three": Case(("red", "green", "blue"), (), 0.05, _two_of_three),
    "texture": Case((), (), 0.0, lambda p: p[0]),
}


class World(NamedTuple):
    """Images of one case, with their discs, their classifier and the area of the smallest sets.

    Attributes:
        images: float32 `[N, H, W, 3]` in [0, 1].
        parts: bool `[N, P, H, W]`, the discs that the class depends on.
        classifier: the analytic classifier; class 0 is the class of the case.
        least: number of pixels of the smallest set, by objective.
        least_with_reserve: the same, of the smallest set whose logit margin exceeds the reserve.
    """

    images: jax.Array
    parts: np.ndarray
    classifier: Classifier
    least: dict[str, int]
    least_with_reserve: dict[str, int]


def make_world(
    name: str, num_images: int, size: int, seed: int = 0, settings: Settings | None = None
) -> World:
    """Draws the images of a case and enumerates its smallest sets.

    Args:
        name: name of a case in `CASES`.
        num_images: number of images N.
        size: side of the images, in pixels.
        seed: seed of the positions and backgrounds.
        settings: determine the reserve; None = no reserve.

    Returns:
        The `World`.
    """
    case, rng = CASES[name], np.random.default_rng([seed, *name.encode()])
    disc = _disc(size, case.area)
    draw = _draw_texture if name == "texture" else _draw_discs
    drawn = [draw(case, rng, size, disc) for _ in range(num_images)]
    images, parts = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    total = size * size if name == "texture" else int(disc.sum())
    classifier = _make_classifier(case, total, is_texture=name == "texture")
    least = (
        _enumerate_least(case, total, name, 0.0),
        _enumerate_least(case, total, name, 0.0 if settings is None else _reserve(settings)),
    )
    return World(jnp.asarray(images), parts, classifier, *least)


def _disc(size: int, area: float) -> np.ndarray:
    """Returns a disc of this share of the image, bool `[2 r + 1, 2 r + 1]`."""
    radius = size * np.sqrt(area / np.pi)
    ends = int(np.ceil(radius))
    y, x = np.mgrid[-ends : ends + 1, -ends : ends + 1]
    return np.asarray(y * y + x * x <= radius * radius)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns a smooth image of muted colours with a little noise, `[H, W, 3]`."""
    y, x = np.mgrid[:size, :size] / size
    phase, waves = rng.uniform(0, 6, (2, 3)), rng.uniform(4, 9, (2, 3))
    waved = np.sin(x[..., None] * waves[0] + phase[0]) * np.cos(y[..., None] * waves[1] + phase[1])
    return np.asarray(0.5 + 0.1 * waved + rng.normal(0, 0.02, (size, size, 3)))


def _draw_discs(
    case: Case, rng: np.random.Generator, size: int, disc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    image, masks = _background(rng, size), []
    colours = case.discs + case.others
    for colour, centre in zip(colours, _draw_centres(rng, len(colours), size, disc), strict=True):
        mask = np.zeros((size, size), bool)
        top, left = centre - len(disc) // 2
        mask[top : top + len(disc), left : left + len(disc)] = disc
        image[mask] = COLOURS[colour]
        masks.append(mask)
    return image.clip(0, 1).astype(np.float32), np.stack(masks[: len(case.discs)])


def _draw_centres(rng: np.random.Generator, number: int, size: int, disc: np.ndarray) -> np.ndarray:
    """Returns centres `[number, 2]` of discs that lie inside the image and do not touch."""
    reach, diameter = len(disc) // 2, 2.0 * np.sqrt(disc.sum() / np.pi)
    for _ in range(_MAX_DRAWS):
        centres = rng.integers(reach, size - reach, (number, 2))
        pairs = itertools.combinations(centres, 2)
        if all(np.hypot(*(first - second)) > diameter + 2 for first, second in pairs):
            return centres
    raise ValueError(f"{number} discs do not fit into {size} x {size} pixels: take a larger size")


def _draw_texture(
    case: Case, rng: np.random.Generator, size: int, disc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    del case, disc
    stripes = np.add.outer(np.arange(size), np.arange(size)) // 4 % 2
    shade = 0.92 + 0.08 * stripes[..., None] * rng.uniform(0.5, 1.0)
    image = shade * np.asarray(COLOURS["red"])
    return image.clip(0, 1).astype(np.float32), np.ones((1, size, size), bool)


def _make_classifier(case: Case, total: int, *, is_texture: bool) -> Classifier:
    """Makes the classifier `[0: the class of the case, 1: other]` from counts of pixels."""
    colours = jnp.asarray([COLOURS[name] for name in case.discs or ("red",)])

    def apply(params: Any, images: jax.Array) -> jax.Array:
        # A pixel counts for a colour if the distance between the two is below 0.3.
        distance = jnp.sqrt(jnp.square(images[..., None, :] - colours).sum(-1) + 1e-8)
        counts = jax.nn.sigmoid(40.0 * (0.3 - distance)).sum((1, 2))
        present = case.presence(_presence(counts / total, is_texture, jax.nn.sigmoid).T)
        return jnp.stack([_margin(present), jnp.zeros(len(images))], axis=-1)

    return Classifier(params=(), apply=apply, name="colours")


def _presence(shares: Any, is_texture: bool, sigmoid: Callable[[Any], Any]) -> Any:
    return sigmoid(_STEEPNESS * (shares - (_TEXTURE_SHARE if is_texture else _PRESENT)))


def _margin(present: Any) -> Any:
    """Returns the logit margin of the class, -4 to 4."""
    return 8.0 * present - 4.0


def _reserve(settings: Settings) -> float:
    """Returns the logit margin that a region has to exceed; that of the whole image is 4."""
    return settings.confidence * min(settings.margin_cap or 4.0, 4.0)


def _enumerate_least(case: Case, total: int, name: str, reserve: float) -> dict[str, int]:
    """Finds the size of the smallest sets by enumerating the number of pixels kept of each disc."""
    count = max(1, len(case.discs))
    step = -(-total // int(_MAX_COMBINATIONS ** (1 / count)))
    grids = np.meshgrid(*[np.arange(0, total + 1, step)] * count, indexing="ij")
    present = case.presence(
        np.stack([_presence(g / total, name == "texture", expit) for g in grids])
    )
    margin, kept = _margin(present), np.sum(grids, axis=0)
    return {
        "ssr": int(kept[margin > reserve].min()),
        "sdr": total * count - int(kept[margin < -reserve].max()),
    }


class Row(NamedTuple):
    """Figures of one case and objective, over images and keys.

    Attributes:
        ratio: area of the region divided by the area of the smallest set, median.
        ratio_with_reserve: the same, for the smallest set with the reserve.
        mean_ratio: mean of `ratio`.
        on_parts: share of the region that lies on discs that the class depends on, mean.
        region_success: share of regions that keep (SSR) or flip (SDR) the prediction.
        ok: share of explanations with status `OK`.
        iou_keys: mean IoU of the regions of two keys; NaN with one key.
        iou_noise: mean IoU of the regions of an image with and without noise, at the first key.
        answers: number of regions, by the set of discs of which they cover more than a seventh.
    """

    ratio: float
    ratio_with_reserve: float
    mean_ratio: float
    on_parts: float
    region_success: float
    ok: float
    iou_keys: float
    iou_noise: float
    answers: dict[str, int]


def measure(
    world: World, name: str, objective: str, found: list[Explanation], noisy: Explanation
) -> Row:
    """Compares the regions of explanations with the smallest sets.

    Args:
        world: the images of the case.
        name: name of the case in `CASES`.
        objective: `"ssr"` or `"sdr"`.
        found: explanations of all images, one for each key.
        noisy: explanation of all images with noise, at the first key.

    Returns:
        The figures of this case and objective.
    """
    regions = np.stack([np.asarray(e.region) for e in found])
    area = regions.sum((2, 3))
    relevant = world.parts.any(1)
    on_parts = (regions & relevant).sum((2, 3)) / np.maximum(1, area)
    kept = regions if objective == "ssr" else ~regions
    composites = jnp.where(kept[..., None], world.images, 0.5)
    logits = jnp.stack([world.classifier.apply((), images) for images in composites])
    success = (np.asarray(logits).argmax(-1) == 0) == (objective == "ssr")
    ious = [_iou(first, second) for first, second in itertools.combinations(regions, 2)]
    ratio = area / world.least[objective]
    return Row(
        ratio=float(np.median(ratio)),
        ratio_with_reserve=float(np.median(area / world.least_with_reserve[objective])),
        mean_ratio=float(ratio.mean()),
        on_parts=float(on_parts.mean()),
        region_success=float(success.mean()),
        ok=float(np.mean([np.asarray(e.status) == Status.OK for e in found])),
        iou_keys=float(np.mean(ious)) if ious else float("nan"),
        iou_noise=float(_iou(regions[0], np.asarray(noisy.region)).mean()),
        answers=_count_answers(CASES[name], world.parts, regions),
    )


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first & second).sum((1, 2)) / np.maximum(1, (first | second).sum((1, 2)))


def _count_answers(case: Case, parts: np.ndarray, regions: np.ndarray) -> dict[str, int]:
    """Counts, for regions `[keys, N, H, W]`, the sets of discs covered by more than a seventh."""
    covered = (regions[:, :, None] & parts).sum((3, 4)) / parts.sum((2, 3))
    names = np.asarray(case.discs or ("image",))
    sets = ["+".join(names[one > 1 / 7]) or "none" for one in covered.reshape(-1, len(names))]
    return {name: sets.count(name) for name in sorted(set(sets))}


def find_both(mode: str, changes: dict[str, Any], num_images: int, size: int, seed: int) -> str:
    """Searches for two regions in images with two answers; returns how often both are found."""
    shares = {}
    for name, objective in (("or_both", "ssr"), ("and", "sdr")):
        world = make_world(name, num_images, size, seed)
        found = explain(
            jax.random.key(0),
            world.classifier,
            load_generator("grey"),
            world.images,
            jnp.zeros(num_images, jnp.int32),
            objective=objective,
            mode=mode,
            alternatives=2,
            **changes,
        )
        # Which regions [N, 2] cover more than a seventh of which discs [N, 2].
        covered = np.asarray(found.region)[:, :, None] & world.parts[:, None]
        covered = covered.sum((3, 4)) > world.parts.sum((2, 3))[:, None] / 7
        is_one_each = (covered.sum(1) == 1).all(1) & (covered.sum(2) == 1).all(1)
        is_ok = (np.asarray(found.status) == Status.OK).all(1)
        shares[f"{name}, {objective}"] = float(np.mean(is_one_each & is_ok))
    return ", ".join(f"{name}: {share:.2f}" for name, share in shares.items())


def run(
    cases: list[str], modes: list[str], changes: dict[str, Any], num_images: int, keys: list[int],
    size: int, seed: int = 0,
) -> Iterator[tuple[str, str, str, Row]]:  # fmt: skip
    """Explains the images of each case with each mode; yields mode, case, objective and figures."""
    generator = load_generator("grey")
    for mode, name in itertools.product(modes, cases):
        world = make_world(name, num_images, size, seed, get_settings(mode, **changes))
        noise = np.random.default_rng(1).uniform(-1, 1, world.images.shape) / 255
        noisy_images = (world.images + noise).clip(0, 1)
        *found, noisy = (
            explain_both(
                jax.random.key(key),
                world.classifier,
                generator,
                images,
                jnp.zeros(num_images, jnp.int32),
                mode=mode,
                **changes,
            )
            for key, images in [*((key, world.images) for key in keys), (keys[0], noisy_images)]
        )
        for objective in noisy:
            figures = [one[objective] for one in found], noisy[objective]
            yield mode, name, objective, measure(world, name, objective, *figures)


def main() -> None:
    """Prints one line per mode, case and objective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=["region"])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", dest="changes")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--num_images", type=int, default=32)
    parser.add_argument("--keys", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the images")
    parser.add_argument("--alternatives", action="store_true")
    arguments = parser.parse_args()
    changes = {k: ast.literal_eval(v) for k, _, v in (c.partition("=") for c in arguments.changes)}
    if arguments.alternatives:
        for mode in arguments.modes:
            size = arguments.num_images, arguments.size, arguments.seed
            print(f"{mode:8} both answers found, {find_both(mode, changes, *size)}")
        return
    columns = (
        "area/least",
        "reserve",
        "mean",
        "on parts",
        "success",
        "OK",
        "IoU keys",
        "IoU noise",
        "answers",
    )
    print(f"{'mode':8} {'case':12}    ", *(f"{column:>10}" for column in columns))
    options = arguments.num_images, arguments.keys, arguments.size, arguments.seed
    for mode, name, objective, row in run(arguments.cases, arguments.modes, changes, *options):
        *numbers, answers = row
        texts = (f"{number:10.2f}" for number in numbers)
        print(f"{mode:8} {name:12} {objective} ", *texts, answers, flush=True)


if __name__ == "__main__":
    main()
