"""Measures a device: what it can do, what the networks reach of it, what an explanation takes.

    python benchmarks/accelerator.py [--output=FILE.json] [--size=small] [--only=NAME ...]

At most 4 minutes with all compilation, on one device: no stage is begun where the longest one so
far would go beyond `--seconds`, and `not_measured` names it. `--size=small` is for a CPU, and tells
no more than that everything runs. What is found so far is in FILE after each stage.
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
from timing import median_seconds, seconds_a_row

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
# Before the first use of the device: PyTorch, in a process beside, needs some of its memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
KEY = jax.random.key(0)
PRECISIONS: dict[str, Callable[[Any], Any]] = {
    "bfloat16": in_bfloat16,
    "float32": lambda model: model,
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        resnet: which of them.
        precision: precision of explanations, where every CPU is slow at bfloat16.
        repeats: number of timings, after a first one for compilation; their median counts.
        side: height and width of the images, in pixels.
        rows: in a batch of the bare networks.
        matrix: side of the matrices that are multiplied.
        copied: numbers in the array that is copied.
        images: explained at once.
        settings: fields of `Settings` in place of those of the mode.
        trained: generator of the training step.
        crop: side of its crops.
        crops: in a step.
        steps: number of training steps.
    """

    resnet: str = "resnet50"
    precision: str = "bfloat16"
    repeats: int = 5
    side: int = 224
    rows: int = 256
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
        resnet="resnet18", precision="float32", repeats=1, side=32, rows=1, matrix=128,
        copied=2**16, images=1, settings={"num_steps": 2, "num_samples": 2, "mask_size": 8},
        trained="vae_digits", crop=28, crops=2, steps=2,
    ),
}  # fmt: skip


def main() -> None:
    """Runs the chosen stages, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, help="file for the figures, as JSON")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--weights", help="of the ResNet; without them random ones")
    parser.add_argument("--seconds", type=float, default=240, help="that all may take")
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
    """Adds what the stages measure to what is found; yields what is new after each of them."""
    start = time.perf_counter()
    for name in names:
        taken, longest = time.perf_counter() - start, max(found["seconds"].values(), default=0)
        if found["seconds"] and taken + longest > limit:
            new: Found = {"not_measured": {name: "no time left"}}
        else:
            try:
                new = STAGES[name](size, found, weights)
            except jax.errors.JaxRuntimeError as error:  # As where memory runs out.
                new = {"not_measured": {name: str(error).splitlines()[0]}}
            new["seconds"] = {name: round(time.perf_counter() - start - taken, 2)}
            new["peak_bytes"] = peak_bytes()
        merge(found, new)
        shares = compare(size, found)
        merge(found, shares)
        yield new | shares


def describe(size: str) -> Found:
    """Says what is measured, and on what."""
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
    """What no network can beat: a matrix product in bfloat16, and a copy in memory."""
    del found, weights
    side, products, copies = size.matrix, 10, 50
    left, right = (
        jax.random.normal(key, (side, side), jnp.bfloat16) / math.sqrt(side)
        for key in jax.random.split(KEY)
    )
    # In turn on their own results, so that none is left out.
    product = jax.jit(
        lambda a, b: jax.lax.fori_loop(0, products, lambda _, a: (a @ b).astype(a.dtype), a)
    )
    copy = jax.jit(lambda x: jax.lax.fori_loop(0, copies, lambda _, x: x + 1, x))
    numbers = jnp.zeros(size.copied, jnp.float32)
    flops = products * 2 * side**3 / median_seconds(lambda: product(left, right), size.repeats)
    moved = copies * 2 * numbers.nbytes / median_seconds(lambda: copy(numbers), size.repeats)
    return {"ceilings": {"matmul_flop_per_s": flops, "copy_bytes_per_s": moved}}


def measure_networks(precision: str, size: Size, found: Found, weights: str | None) -> Found:
    """Networks by themselves: classifiers with their input gradient, the generator without."""
    del found
    images = jax.random.uniform(KEY, (size.rows, size.side, size.side, 3))
    classifiers = {
        size.resnet: load_resnet(size, weights),
        "efficientnet_lite0": load_classifier("efficientnet_lite0"),
    }
    change = PRECISIONS[precision]
    timed = functools.partial(seconds_a_row, number=size.repeats, repeats=size.repeats)
    rates = {
        name: 1.0 / timed(gradient, images, change(classifier))
        for name, classifier in classifiers.items()
    }
    rates["gated_unet"] = 1.0 / timed(fill, images, change(load_generator("gated_unet")))
    return {"networks": {f"{precision}_rows_per_s": rates}}


def measure_explanations(mode: str, size: Size, found: Found, weights: str | None) -> Found:
    """Whole explanations, judged and all, of a ResNet and gated_unet."""
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
    rows = rate * settings.num_steps * settings.num_samples
    figures = {
        "explanations_per_s": rate,
        "learning_evaluations": settings.num_steps * settings.num_samples,
        "learning_rows_per_s": rows,
        "program_bytes": program_bytes,
    }
    return {"explanations": {mode: figures}}


def measure_judge(size: Size, found: Found, weights: str | None) -> Found:
    """Judging by itself: what a learnt mask of `fast` is worth, by hard masks."""
    del found
    settings: Settings = get_settings("fast", **size.settings)
    images = to_floats(jnp.asarray(random_bytes(size.images, size.side)))

    @jax.jit
    def judge(images: jax.Array, models: tuple[Classifier, Generator]) -> Any:
        problems = jax.vmap(lambda image: make_problem(KEY, image, Question(CLASS), "ssr"))(images)
        one = functools.partial(finish, init(settings), settings=settings)
        return jax.vmap(one, in_axes=(0, None, None))(problems, *models)

    models = load_models(size, weights)
    seconds = median_seconds(lambda: judge(images, models), size.repeats)
    return {"judge": {"images_per_s": size.images / seconds}}


def measure_training(size: Size, found: Found, weights: str | None) -> Found:
    """Steps of a training on the same crops, and on crops cut from photographs on the device."""
    del found, weights
    network, settings = NETWORKS[size.trained], TrainConfig().settings()
    device = jax.local_devices()[:1]
    take_step = parallel.train_over_devices(
        functools.partial(train_step, loss=network.loss, settings=settings), device, DEVICE_AXIS
    )
    state = init_state(KEY, network.init(KEY), network.channels, settings)
    state, shared = (parallel.replicate(tree, device) for tree in (state, (KEY, None)))
    rows = jnp.arange(size.crops, dtype=jnp.int32)[None]
    crops = load_crops(Crops(open_source(DataConfig()), size.crop, network.channels, 0), 3, device)

    def train(batches: Iterable[jax.Array | np.ndarray]) -> Any:
        nonlocal state
        for pixels in batches:
            state, metrics = take_step(state, pixels, rows, *shared)
        return metrics["loss"]

    def draw() -> Iterator[jax.Array | np.ndarray]:
        for batch in crops.batches(0, size.steps, size.crops):
            yield crops.on_devices(batch[None])

    same = list(draw())[:1] * size.steps
    bare = median_seconds(lambda: train(same), size.repeats)
    drawn = median_seconds(lambda: train(draw()), size.repeats)
    images = size.steps * size.crops
    rates = {"step_images_per_s": images / bare, "with_crops_images_per_s": images / drawn}
    return {"training": rates}


def compare(size: Size, found: Found) -> Found:
    """What explanations reach of the bare networks, once both are measured.

    The time that the networks by themselves take for the masks that are learnt from / the time of
    whole explanations, judging included.
    """
    bare = found.get("networks", {}).get(f"{size.precision}_rows_per_s")
    if not bare:
        return {}
    seconds_a_row = 1.0 / bare[size.resnet] + 1.0 / bare["gated_unet"]
    return {
        "share_of_networks": {
            mode: figures["learning_rows_per_s"] * seconds_a_row
            for mode, figures in found.get("explanations", {}).items()
        }
    }


def measure_pytorch(size: Size, found: Found, weights: str | None) -> Found:
    """The same networks in PyTorch, where it is installed and sees the same device."""
    del weights
    script = pathlib.Path(__file__).with_name("pytorch_networks.py")
    options: dict[str, Any] = {"platform": found["platform"], "resnet": size.resnet}
    options |= {"side": size.side, "rows": size.rows, "repeats": size.repeats}
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
    "judge": measure_judge,
    "training": measure_training,
    "float32": functools.partial(measure_networks, "float32"),
    "pytorch": measure_pytorch,
}


def load_resnet(size: Size, weights: str | None) -> Classifier:
    """Loads a ResNet, or makes one with random weights, which take as long."""
    if weights:
        return load_classifier(size.resnet, weights)
    architecture = ARCHITECTURES[size.resnet]
    params = jax.jit(architecture.module.init)(KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    apply = NormalizedModule(architecture.module, architecture.layouts[0].normalization)
    return Classifier(params, apply, name=size.resnet)


def load_models(size: Size, weights: str | None) -> tuple[Classifier, Generator]:
    """Loads what whole explanations are measured with."""
    change = PRECISIONS[size.precision]
    return change(load_resnet(size, weights)), change(load_generator("gated_unet"))


def gradient(images: jax.Array, classifier: Classifier) -> jax.Array:
    """Returns the input gradient of the sum of a logit."""
    return jax.grad(lambda rows: classifier.apply(classifier.params, rows)[:, CLASS].sum())(images)


def fill(images: jax.Array, generator: Generator) -> jax.Array:
    """Fills holes where the first channel is dark."""
    return generator.apply(generator.params, images, jnp.round(images[..., :1]), KEY)


def random_bytes(number: int, side: int) -> np.ndarray:
    """Draws images of noise, uint8 `[number, side, side, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (number, side, side, 3), np.uint8)


def peak_bytes() -> int | None:
    """Most memory in use so far, of a device that tells."""
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if peak is None else int(peak)


if __name__ == "__main__":
    main()
