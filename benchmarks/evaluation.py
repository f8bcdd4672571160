"""Measures the cost of an evaluation in addition to that of its network evaluations.

    python benchmarks/evaluation.py --images=DIR [--num_images=50] [--curve_steps=5]
    python benchmarks/evaluation.py --num_records=5000,50000

DIR is a folder of photographs with a manifest.csv (columns file, label, boxes). One side of the
comparison is the whole command, from files to tables, for maps that cost nothing (`centre`):
decoding, boxes, all metrics, records. The other side is the networks alone on the same number of
pictures: both forms of both curves, and the crops. Both include compilation once.

The second form measures synthetic runs with the given numbers of images of 8 x 8 pixels and a
network that costs nothing: the remaining time is that of the evaluation itself, and the images per
second must not decrease with the number of images.
"""

import argparse
import functools
import os
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers import Classifier
from cfx_jax.config import (
    BatchConfig,
    Config,
    DataConfig,
    ExplainConfig,
    GeneratorConfig,
    ReportConfig,
)
from cfx_jax.evaluate import EvaluateConfig, evaluate
from cfx_jax.generators import Generator
from cfx_jax.registry import load_classifier, load_generator
from cfx_jax.runs import runner

SIZE = (224, 224)
# The boxes of the image, its three control boxes, and the box of the map.
NUM_CROPS = 5
# Size of the images of synthetic runs.
TINY = 8
UNIT_SIZE = 100


def main() -> None:
    """Times both sides and prints their ratio, or times evaluations of synthetic runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images")
    parser.add_argument("--num_images", type=int, default=50)
    parser.add_argument("--curve_steps", type=int, default=5)
    parser.add_argument("--num_records", type=lambda text: [int(n) for n in text.split(",")])
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    if arguments.num_records:
        for number in arguments.num_records:
            elapsed = evaluate_records(number)
            print(f"{number} records: {elapsed:.1f} s, {number / elapsed:.0f} images/s", flush=True)
        return
    config = EvaluateConfig(
        data=DataConfig("folder", arguments.images, resize="stretch",
                        max_examples=arguments.num_images),
        infills=(),
        baselines=("centre",),
        curve_steps=arguments.curve_steps,
        batch=BatchConfig(unit_size=10),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        whole = seconds(lambda: evaluate(config, folder))
    classifier = load_classifier("efficientnet_lite0")
    infills = (load_generator("grey"), load_generator("gated_unet"))
    pictures = 2 * (arguments.curve_steps + 1)

    def networks() -> None:
        for number in range(arguments.num_images):
            image = jnp.full((*SIZE, 3), number / arguments.num_images)
            jax.block_until_ready(run_networks(classifier, infills, image, pictures=pictures))

    alone = seconds(networks)
    print(f"{arguments.num_images} images: {whole:.1f} s, networks alone {alone:.1f} s, "
          f"ratio {whole / alone:.2f}")  # fmt: skip


def evaluate_records(number: int) -> float:
    """Returns the seconds that the evaluation of a run of tiny images takes."""
    tiny = Classifier((), lambda _, x: x.mean((1, 2)), name="tiny", image_size=(TINY, TINY))
    pixels = np.random.default_rng(0).integers(0, 256, (number, TINY, TINY, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/images.npz", images=pixels, labels=np.arange(number) % 3)
        run = Config(
            data=DataConfig("npz", f"{folder}/images.npz", resize="stretch"),
            generator=GeneratorConfig("grey"),
            explain=ExplainConfig(objective="ssr", num_steps=1, num_samples=1, mask_size=4),
            batch=BatchConfig(unit_size=UNIT_SIZE, per_device_batch_size=UNIT_SIZE),
            report=ReportConfig(save_images=False),
        )
        runner.run(run, f"{folder}/run", classifier=tiny)
        config = EvaluateConfig(
            generator=run.generator, baselines=("centre",), curve_steps=1, batch=run.batch
        )
        records = [f"{folder}/run"]
        return seconds(lambda: evaluate(config, f"{folder}/scores", records, classifier=tiny))


def seconds(call: Any) -> float:
    """Returns the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def fill_and_classify(
    classifier: Classifier, generator: Generator, image: jax.Array, step: Any
) -> jax.Array:
    """Returns the logits of an image whose first rows are in-filled."""
    mask = (jnp.arange(SIZE[0])[:, None] > step) * jnp.ones(SIZE)
    holes = mask[None, ..., None]
    filled = generator.apply(generator.params, image[None], holes, jax.random.key(0))
    return classifier.apply(classifier.params, holes * image + (1 - holes) * filled)[0]


@functools.partial(jax.jit, static_argnames="pictures")
def run_networks(
    classifier: Classifier, infills: tuple[Generator, ...], image: jax.Array, pictures: int
) -> jax.Array:
    """In-fills and classifies as many pictures per image as the evaluation of a map."""
    total = jnp.zeros(())
    for infill in infills:
        curves = jax.lax.map(
            lambda step, infill=infill: fill_and_classify(classifier, infill, image, step),
            jnp.arange(pictures),
        )
        total += curves.sum()
    crops = jax.lax.map(
        lambda step: classifier.apply(classifier.params, image[None] * (1 - 0.01 * step))[0],
        jnp.arange(NUM_CROPS),
    )
    return total + crops.sum()


if __name__ == "__main__":
    main()
