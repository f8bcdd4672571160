"""Measures a device: its peak rates, the networks alone, and explanations.

    python benchmarks/accelerator.py [--output=FILE.json] [--size=small] [--only=NAME ...]

Takes at most 4 minutes on one device, including compilation: a stage is skipped, and listed in
`not_measured`, if the longest stage so far would exceed `--seconds`. `--size=small` is for a CPU
and only tests that everything runs. FILE is written after each stage.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from figures import Found, merge, show
from timing import median_seconds, seconds_per_image

from cfx_jax.classifiers import Classifier, NormalizedModule
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source, to_floats
from cfx_jax.fido import Question, Settings, finish, get_settings, in_bfloat16, init, make_problem
from cfx_jax.generators import Generator
from cfx_jax.registry import NETWORKS, load_classifier, load_generator
from cfx_jax.runs import Images, Solver, cluster, parallel
from cfx_jax.train import DEVICE_AXIS, Crops, TrainConfig, init_state, load_crops, train_step
from cfx_jax.weights import ARCHITECTURES

CLASS = 5
# Set before the device is first used: PyTorch, in a separate process, needs some of its memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
KEY = jax.random.key(0)
PRECISIONS: dict[str, Callable[[Any], Any]] = {
    "bfloat16": in_bfloat16,
    "float32": lambda model: model,
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of the measurements.

    Attributes:
        resnet: name of the ResNet.
        precision: precision of explanations; all CPUs are slow in bfloat16.
        repeats: number of timed calls after a first call for compilation; the median is reported.
        side: height and width of the images, in pixels.
        batch_size: images per batch of the networks alone.
        matrix: number of rows and columns of the multiplied matrices.
        copied: number of elements of the copied array.
        images: number of images explained together.
        settings: fields of `Settings` that replace those of the mode.
        trained: name of the generator that is trained.
        crop: side of the training crops, in pixels.
        crops: number of crops per step.
        steps: number of training steps.
    """

    resnet: str = "resnet50"
    precision: str = "bfloat16"
    repeats: int = 5
    side: int = 224
    batch_size: int = 256
    matrix: int = 8192
    copied: int = 2**28
    images: int = 128
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trained: str = "gated_unet"
    crop: int = 128
    crops: int = 64
    steps: int = 20


SIZES = {
    "full": Size(),
    "small": Size(
        resnet="resnet18", precision="float32", repeats=1, side=32, batch_size=1, matrix=128,
        copied=2**16, images=1, settings={"num_steps": 2, "num_samples": 2, "mask_size": 8},
        trained="vae_digits", crop=28, crops=2, steps=2,
    ),
}  # fmt: skip


def main() -> None:
    """Runs the chosen stages one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, help="file for the figures, as JSON")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--weights", help="weights of the ResNet; random without this option")
    parser.add_argument("--seconds", type=float, default=240, help="time limit of all stages")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    size, weights = SIZES[arguments.size], arguments.weights
    found = describe(arguments.size)
    show(found)
    for new in run_stages(arguments.only, size, found, weights, arguments.seconds):
        show(new)
        if arguments.output:
            arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def run_stages(
    names: Iterable[str], size: Size, found: Found, weights: str | None, limit: float
) -> Iterator[Found]:
    """Adds the figures of each stage to `found`; yields the new figures after each stage."""
    start = time.perf_counter()
    for name in names:
        taken, longest = time.perf_counter() - start, max(found["seconds"].values(), default=0)
        if found["seconds"] and taken + longest > limit:
            new: Found = {"not_measured": {name: "no time left"}}
        else:
            try:
                new = STAGES[name](size, found, weights)
            except jax.errors.JaxRuntimeError as error:  # For example, out of memory.
                new = {"not_measured": {name: str(error).splitlines()[0]}}
            new["seconds"] = {name: round(time.perf_counter() - start - taken, 2)}
            new["peak_bytes"] = peak_bytes()
        merge(found, new)
        shares = compare(size, found)
        merge(found, shares)
        yield new | shares


def describe(size: str) -> Found:
    """Returns the sizes, the device and the versions."""
    device = jax.local_devices()[0]
    return {
        "size": size,
        "sizes": dataclasses.asdict(SIZES[size]),
        "device_kind": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()} | cluster.environment()["versions"],
        "seconds": {},
        "not_measured": {},
    }


def measure_ceilings(size: Size, found: Found, weights: str | None) -> Found:
    """Measures the peak rates: a matrix product in bfloat16, and a copy in memory."""
    del found, weights
    side, products, copies = size.matrix, 10, 50
    left, right = (
        jax.random.normal(key, (side, side), jnp.bfloat16) / math.sqrt(side)
        for key in jax.random.split(KEY)
    )
    # Each operates on the result of the last one, so that none is optimised away.
    product = jax.jit(
        lambda a, b: jax.lax.fori_loop(0, products, lambda _, a: (a @ b).astype(a.dtype), a)
    )
    copy = jax.jit(lambda x: jax.lax.fori_loop(0, copies, lambda _, x: x + 1, x))
    numbers = jnp.zeros(size.copied, jnp.float32)
    flops = products * 2 * side**3 / median_seconds(lambda: product(left, right), size.repeats)
    moved = copies * 2 * numbers.nbytes / median_seconds(lambda: copy(numbers), size.repeats)
    return {"ceilings": {"matmul_flop_per_s": flops, "copy_bytes_per_s": moved}}


def measure_networks(precision: str, size: Size, found: Found, weights: str | None) -> Found:
    """Measures the networks alone: classifiers with input gradient, the generator without."""
    del found
    images = jax.random.uniform(KEY, (size.batch_size, size.side, size.side, 3))
    classifiers = {
        size.resnet: load_resnet(size, weights),
        "efficientnet_lite0": load_classifier("efficientnet_lite0"),
    }
    change = PRECISIONS[precision]
    timed = functools.partial(seconds_per_image, number=size.repeats, repeats=size.repeats)
    rates = {
        name: 1.0 / timed(gradient, images, change(classifier))
        for name, classifier in classifiers.items()
    }
    rates["gated_unet"] = 1.0 / timed(fill, images, change(load_generator("gated_unet")))
    return {"networks": {f"{precision}_images_per_s": rates}}


def measure_explanations(mode: str, size: Size, found: Found, weights: str | None) -> Found:
    """Measures explanations, including hard-mask evaluation, of a ResNet with gated_unet."""
    del found
    settings = get_settings(mode, **size.settings)
    shape = (size.side, size.side, 3)
    device = jax.local_devices()[:1]
    solver = Solver(KEY, *load_models(size, weights), settings, ["ssr"], shape, device)
    program_bytes = solver.compile(size.images)
    job = Images(
        random_bytes(size.images, size.side), np.zeros(size.images, int), np.arange(size.images)
    )
    # Small programs are compiled during the first job. The second one begins when the first ends.
    ends = [time.perf_counter() for _ in solver.stream([("warm", job), ("timed", job)])]
    rate = size.images / (ends[1] - ends[0])
    evaluations = settings.num_steps * settings.num_samples
    figures = {
        "explanations_per_s": rate,
        "learning_evaluations": evaluations,
        "learning_evaluations_per_s": rate * evaluations,
        "program_bytes": program_bytes,
    }
    return {"explanations": {mode: figures}}


def measure_evaluation(size: Size, found: Found, weights: str | None) -> Found:
    """Measures the hard-mask evaluation of `fast` alone."""
    del found
    settings: Settings = get_settings("fast", **size.settings)
    images = to_floats(jnp.asarray(random_bytes(size.images, size.side)))

    @jax.jit
    def evaluate(images: jax.Array, models: tuple[Classifier, Generator]) -> Any:
        problems = jax.vmap(lambda image: make_problem(KEY, image, Question(CLASS), "ssr"))(images)
        one = functools.partial(finish, init(settings), settings=settings)
        return jax.vmap(one, in_axes=(0, None, None))(problems, *models)

    models = load_models(size, weights)
    seconds = median_seconds(lambda: evaluate(images, models), size.repeats)
    return {"hard_masks": {"images_per_s": size.images / seconds}}


def measure_training(size: Size, found: Found, weights: str | None) -> Found:
    """Measures training steps on constant crops, and on crops cut from photographs."""
    del found, weights
    network, settings = NETWORKS[size.trained], TrainConfig().settings()
    device = jax.local_devices()[:1]
    take_step = parallel.train_over_devices(
        functools.partial(train_step, loss=network.loss, settings=settings), device, DEVICE_AXIS
    )
    state = init_state(KEY, network.init(KEY), network.channels, settings)
    state, shared = (parallel.replicate(tree, device) for tree in (state, (KEY, None)))
    indices = jnp.arange(size.crops, dtype=jnp.int32)[None]
    crops = load_crops(Crops(open_source(DataConfig()), size.crop, network.channels, 0), 3, device)

    def train(batches: Iterable[jax.Array | np.ndarray]) -> Any:
        nonlocal state
        for pixels in batches:
            state, metrics = take_step(state, pixels, indices, *shared)
        return metrics["loss"]

    def draw() -> Iterator[jax.Array | np.ndarray]:
        for batch in crops.batches(0, size.steps, size.crops):
            yield crops.on_devices(batch[None])

    same = list(draw())[:1] * size.steps
    constant = median_seconds(lambda: train(same), size.repeats)
    drawn = median_seconds(lambda: train(draw()), size.repeats)
    images = size.steps * size.crops
    rates = {"step_images_per_s": images / constant, "with_crops_images_per_s": images / drawn}
    return {"training": rates}


def compare(size: Size, found: Found) -> Found:
    """Returns the share of the networks in the time of explanations, once both are measured.

    Formula: time of the networks alone for the masks of learning / time of explanations, including
    their hard-mask evaluation.
    """
    alone = found.get("networks", {}).get(f"{size.precision}_images_per_s")
    if not alone:
        return {}
    network_seconds = 1.0 / alone[size.resnet] + 1.0 / alone["gated_unet"]
    return {
        "share_of_networks": {
            mode: figures["learning_evaluations_per_s"] * network_seconds
            for mode, figures in found.get("explanations", {}).items()
        }
    }


def measure_pytorch(size: Size, found: Found, weights: str | None) -> Found:
    """Measures the same networks in PyTorch, if it is installed and supports the device."""
    del weights
    script = pathlib.Path(__file__).with_name("pytorch_networks.py")
    options: dict[str, Any] = {"platform": found["platform"], "resnet": size.resnet}
    options |= {"side": size.side, "batch_size": size.batch_size, "repeats": size.repeats}
    command = [
        sys.executable,
        str(script),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        return {"not_measured": {"pytorch": process.stderr.strip().splitlines()[-1]}}
    return {"pytorch": json.loads(process.stdout)}


STAGES: dict[str, Callable[[Size, Found, str | None], Found]] = {
    "ceilings": measure_ceilings,
    "bfloat16": functools.partial(measure_networks, "bfloat16"),
    "fast": functools.partial(measure_explanations, "fast"),
    "region": functools.partial(measure_explanations, "region"),
    "hard_masks": measure_evaluation,
    "training": measure_training,
    "float32": functools.partial(measure_networks, "float32"),
    "pytorch": measure_pytorch,
}


def load_resnet(size: Size, weights: str | None) -> Classifier:
    """Loads a ResNet, or makes one with random weights, which is as fast."""
    if weights:
        return load_classifier(size.resnet, weights)
    architecture = ARCHITECTURES[size.resnet]
    params = jax.jit(architecture.module.init)(KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    apply = NormalizedModule(architecture.module, architecture.layouts[0].normalization)
    return Classifier(params, apply, name=size.resnet)


def load_models(size: Size, weights: str | None) -> tuple[Classifier, Generator]:
    """Loads the classifier and the generator of the measured explanations."""
    change = PRECISIONS[size.precision]
    return change(load_resnet(size, weights)), change(load_generator("gated_unet"))


def gradient(images: jax.Array, classifier: Classifier) -> jax.Array:
    """Returns the input gradient of the sum of a logit."""
    return jax.grad(lambda x: classifier.apply(classifier.params, x)[:, CLASS].sum())(images)


def fill(images: jax.Array, generator: Generator) -> jax.Array:
    """Fills holes where the first channel is dark."""
    return generator.apply(generator.params, images, jnp.round(images[..., :1]), KEY)


def random_bytes(number: int, side: int) -> np.ndarray:
    """Draws images of noise, uint8 `[number, side, side, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (number, side, side, 3), np.uint8)


def peak_bytes() -> int | None:
    """Returns the peak memory of the device; None if the device does not report it."""
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if peak is None else int(peak)


if __name__ == "__main__":
    main()
