"""Flips and keeps eights with every method and prints the medians: the MNIST protocol of FIDO.

    python benchmarks/mnist_flipping.py --data=mnist.npz --weights=FILE [--num_digits=100]

FILE is the result of `python -m cfx_jax.train_classifier --config=configs/train_mnist_cnn.py`. With
a VAE, use `--generator=vae_digits --initial_keep=0.2`: from half of the pixels, with which the
published optimisation starts, a good in-fill reconstructs the whole digit, so that dropping pixels
changes the logits very little. The digits are the first correctly classified eights of the test
split. The question is "8 rather than 3", with the score `logit of 8 - logit of 3`. Flip: pixels are
in-filled in the order of the map, and the largest decrease of the score is reported. Keep: the
least important pixels are in-filled first, and the largest increase is reported.
"""

import argparse
import functools
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.baselines import attribute
from cfx_jax.classifiers import Classifier
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source, to_floats
from cfx_jax.fido import Question, explain_both
from cfx_jax.generators import Generator
from cfx_jax.metrics import (
    best_drop,
    best_rise,
    bootstrap,
    deletion_curve,
    insertion_curve,
    paired_difference,
)
from cfx_jax.registry import load_classifier, load_generator

EIGHT, THREE = 8, 3
SIZE = 28
AT_ONCE = 10
KEY = jax.random.key(0)
Maps = dict[str, jax.Array]


def main() -> None:
    """Learns the maps, draws the curves, prints the table."""
    arguments = parse_arguments()
    print(f"{os.cpu_count()} cores, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    classifier = two_classes(load_classifier("mnist_cnn", arguments.weights))
    generator = Generator(params=(), apply=background, name="background")
    if arguments.generator != "background":
        generator = load_generator(arguments.generator)
    digits = eights(arguments.data, classifier, arguments.num_digits, arguments.skip)
    methods = make_methods(
        arguments.num_steps, arguments.num_samples, arguments.learning_rate, arguments.initial_keep
    )
    # The other methods are compared with prediction difference.
    wanted = re.compile(f"{arguments.only}|prediction")
    methods = {name: find for name, find in methods.items() if wanted.search(name)}
    scores: dict[str, list[np.ndarray]] = {}
    start = time.perf_counter()
    for first in range(0, len(digits), AT_ONCE):
        batch = digits[first : first + AT_ONCE]
        for name, maps in all_maps(methods, classifier, generator, batch):
            drop, rise = map_over(classifier, generator, batch, maps)
            scores.setdefault(name, []).append(np.stack([drop, rise]))
        done = min(first + AT_ONCE, len(digits))
        print(f"{done} digits, {time.perf_counter() - start:.0f} s", flush=True)
        if arguments.out:
            numbers = {name: np.concatenate(s, axis=1).tolist() for name, s in scores.items()}
            arguments.out.write_text(json.dumps(numbers))
    print_table({name: np.concatenate(parts, axis=1) for name, parts in scores.items()})


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="file of MNIST with x_test and y_test")
    parser.add_argument("--weights", required=True, help="of mnist_cnn")
    parser.add_argument("--generator", default="background", help="that, or one of ours")
    parser.add_argument("--num_digits", type=int, default=100)
    parser.add_argument("--skip", type=int, default=0, help="so many eights, to choose settings on")
    parser.add_argument("--num_steps", type=int, default=300)
    parser.add_argument("--num_samples", type=int, default=64, help="masks per step")
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--initial_keep", type=float, default=0.5, help="of FIDO, at the start")
    parser.add_argument("--only", default="", help="regular expression of the methods, else all")
    parser.add_argument("--out", type=pathlib.Path, help="file for the numbers of each digit")
    return parser.parse_args()


def two_classes(classifier: Classifier) -> Classifier:
    """Returns a classifier of eights and threes; its log-odds are their logit difference."""

    def apply(params: Any, images: jax.Array) -> jax.Array:
        return classifier.apply(params, images)[:, jnp.asarray([EIGHT, THREE])]

    return Classifier(classifier.params, apply, "8 or 3", ("8", "3"), (SIZE, SIZE), channels=1)


def eights(path: str, classifier: Classifier, number: int, skip: int = 0) -> jax.Array:
    """Returns eights that are classified correctly, float32 `[number, 28, 28, 1]`."""
    source = open_source(DataConfig(source="npz", path=path, split="test", resize="stretch"))
    labelled = [index for index in range(len(source)) if source.label(index) == EIGHT]
    pixels = np.stack([source.pixels(index, (SIZE, SIZE, 1), "stretch") for index in labelled])
    grey = to_floats(jnp.asarray(pixels))
    logits = classifier.apply(classifier.params, grey)
    return grey[np.flatnonzero(logits[:, 0] > logits[:, 1])[skip : skip + number]]


def background(params: Any, images: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
    """Fills holes with black, the colour of the background."""
    del params, mask, key
    return jnp.zeros_like(images)


def make_methods(
    num_steps: int, num_samples: int, learning_rate: float, initial_keep: float
) -> dict[str, Callable[..., Maps]]:
    """Returns, by name, functions from (classifier, generator, images, targets) to maps."""

    def fido(*models_and_images: Any, sparsity_weight: float) -> Maps:
        found = explain_both(
            KEY, *models_and_images, mode="paper", mask_size=SIZE, num_samples=num_samples,
            num_steps=num_steps, learning_rate=learning_rate, warmup_steps=50,
            sparsity_weight=sparsity_weight, initial_keep=initial_keep,
        )  # fmt: skip
        return {objective: found[objective].saliency for objective in found}

    def bbmp(*models_and_images: Any, sparsity_weight: float) -> Maps:
        found = explain_both(
            KEY, *models_and_images, mode="bbmp", mask_size=SIZE, num_steps=num_steps,
            learning_rate=learning_rate, sparsity_weight=sparsity_weight,
        )  # fmt: skip
        return {objective: found[objective].saliency for objective in found}

    def other(*models_and_images: Any, method: str) -> Maps:
        return {"": attribute(method, KEY, *models_and_images)}

    return {
        "FIDO, lambda 0": functools.partial(fido, sparsity_weight=0.0),
        "FIDO, lambda 1e-3": functools.partial(fido, sparsity_weight=1e-3),
        "BBMP, lambda 0": functools.partial(bbmp, sparsity_weight=0.0),
        "BBMP, lambda 0.1": functools.partial(bbmp, sparsity_weight=0.1),
        "prediction difference": functools.partial(other, method="occlusion"),
        "integrated gradients": functools.partial(other, method="integrated_gradients"),
        "random": functools.partial(other, method="random"),
    }


def all_maps(
    methods: dict[str, Callable[..., Maps]],
    classifier: Classifier,
    generator: Generator,
    images: jax.Array,
) -> Iterator[tuple[str, jax.Array]]:
    """Yields name and maps `[N, 28, 28]`, larger = more evidence for an eight."""
    targets = np.zeros(len(images), int)
    for name, find in methods.items():
        for objective, maps in find(classifier, generator, images, targets).items():
            yield f"{name} {objective}".strip(), maps


@jax.jit
def map_over(
    classifier: Classifier, generator: Generator, images: jax.Array, maps: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the largest decrease and increase of the score per digit, float32 `[N]`."""

    def one(image: jax.Array, importance: jax.Array) -> tuple[jax.Array, jax.Array]:
        arguments = (KEY, classifier, generator, image, Question(0), importance, SIZE**2)
        return best_drop(deletion_curve(*arguments)), best_rise(insertion_curve(*arguments))

    return jax.vmap(one)(images, maps)


def print_table(scores: dict[str, np.ndarray]) -> None:
    """Prints medians, and the paired differences to prediction difference."""
    reference = scores["prediction difference"]
    print("\n| | flip: median [quartiles] | flip - PDA | keep: median [quartiles] | keep - PDA |")
    print("|---|---|---|---|---|")
    for name, rows in scores.items():
        cells = []
        for row, theirs in zip(rows, reference, strict=True):
            low, middle, high = np.quantile(row, [0.25, 0.5, 0.75])
            cells.append(f"{middle:.1f} [{low:.1f}, {high:.1f}]")
            cells.append(str(paired_difference(row, theirs)))
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{len(reference[0])} digits; differences are means [95 % interval], "
          f"PDA itself {bootstrap(reference[0])} and {bootstrap(reference[1])}")  # fmt: skip


if __name__ == "__main__":
    main()
