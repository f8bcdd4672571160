"""Measures the cost of explaining a whole dataset on this machine.

    python benchmarks/scale.py --photos=DIR [--only NAME ...] [--classifier=NAME --weights=FILE] \
        [--precision=bfloat16] [--batch_size=2]

`--photos` is a folder of photographs. `cost` predicts the time of an explanation from that of the
networks alone and compares it with a real run; `idle` explains 200 photographs with few steps and
reports how long the devices were idle; `flat` explains 10,000 small images and compares the speed
at the end of the run with that at its beginning. `cost` and `idle` take about ten minutes each on a
2-core CPU.
"""

import argparse
import dataclasses
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from timing import seconds_per_image

from cfx_jax.classifiers import log_odds
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source, to_floats
from cfx_jax.fido import MODES, NUM_FULL_INFILLS, NUM_HARD_MASKS, in_bfloat16
from cfx_jax.registry import load_classifier, load_generator
from cfx_jax.runs import Images, Solver

IMAGENET = 50_000


def main() -> None:
    """Runs the chosen benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, help="folder of photographs")
    parser.add_argument("--classifier", default="efficientnet_lite0")
    parser.add_argument("--weights", help="of the classifier, where none are packaged")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch_size", type=int, default=2, help="images per device, in `cost`")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    arguments = parser.parse_args()
    print(f"{jax.local_device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
    for name in arguments.only:
        print(f"\n{name}: {BENCHMARKS[name].__doc__}", flush=True)
        for line in BENCHMARKS[name](arguments):
            print(f"  {line}", flush=True)


def predict_cost(arguments: argparse.Namespace) -> Iterator[str]:
    """Predicts seconds per explanation: T x S x (gradient + in-fill) + 36 x (forward + in-fill)."""
    classifier = load_classifier(arguments.classifier, arguments.weights)
    generator = load_generator("gated_unet")
    if arguments.precision == "bfloat16":
        classifier, generator = in_bfloat16(classifier), in_bfloat16(generator)
    size = classifier.image_size or (224, 224)
    pixels = _photographs(arguments.photos, size, arguments.batch_size)
    images = to_floats(pixels)
    settings = MODES["fast"]

    def gradient(images: jax.Array) -> jax.Array:
        def score(images: jax.Array) -> jax.Array:
            return log_odds(classifier.apply(classifier.params, images), jnp.asarray(0)).sum()

        return jax.grad(score)(images)

    def forward(images: jax.Array) -> jax.Array:
        return classifier.apply(classifier.params, images)[:, :1, None, None]

    def fill(images: jax.Array) -> jax.Array:
        mask = jnp.round(images[..., :1])
        return generator.apply(generator.params, images, mask, jax.random.key(0))

    masked = np.repeat(images, settings.num_samples, axis=0)
    step_seconds = {f.__name__: seconds_per_image(f, masked) for f in (gradient, fill)}
    mask_seconds = {f.__name__: seconds_per_image(f, images) for f in (forward, fill)}
    for batch, times in ((masked, step_seconds), (images, mask_seconds)):
        listed = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in times.items())
        yield f"in batches of {len(batch)}: {listed} per image"

    def predict(num_steps: int) -> float:
        learning = num_steps * settings.num_samples * sum(step_seconds.values())
        return learning + (NUM_HARD_MASKS + NUM_FULL_INFILLS) * sum(mask_seconds.values())

    short = dataclasses.replace(settings, num_steps=20)
    predicted, measured = (
        predict(20),
        _explanation_seconds(
            Solver(jax.random.key(0), classifier, generator, short, ["ssr"], (*size, 3)), pixels
        ),
    )
    yield (
        f"T = 20: predicted {predicted:.2f} s per explanation, measured {measured:.2f} s, "
        f"ratio {measured / predicted:.2f}"
    )
    full = predict(settings.num_steps) * measured / predicted
    share = (
        settings.num_steps
        * settings.num_samples
        * step_seconds["gradient"]
        / predict(settings.num_steps)
    )
    yield (
        f"`fast`, T = {settings.num_steps}: {full:.2f} s on one device ({share:.0%} of it in the "
        f"classifier's gradient); {IMAGENET:,} images: {IMAGENET * full / 3600:,.1f} device-hours "
        "per objective"
    )


def measure_idle(arguments: argparse.Namespace) -> Iterator[str]:
    """Measures the share of a run over 200 photographs, with 5 steps, with idle devices."""
    with tempfile.TemporaryDirectory() as folder:
        process = _run(
            f"--workdir={folder}/run", "--config=configs/folder.py",
            f"--config.data.path={arguments.photos}", "--config.data.max_examples=200",
            "--config.explain.objective=ssr", "--config.explain.num_steps=5",
            "--config.explain.num_samples=2", f"--config.precision={arguments.precision}",
        )  # fmt: skip
        yield re.findall("devices idle.*", process)[-1]
        complete = pathlib.Path(folder, "run/records.zarr/complete/c")
        times = sorted(path.stat().st_mtime for path in complete.iterdir())
        yield f"{(len(times) - 1) * 16 / (times[-1] - times[0]):.2f} images/s between the units"


def measure_flat(_: argparse.Namespace) -> Iterator[str]:
    """Speed at the end of a run over 10,000 images of 32 x 32 / speed at its beginning."""
    rng = np.random.default_rng(0)
    shapes = {"conv1": (32, 1, 3, 3), "conv2": (64, 32, 3, 3), "fc1": (128, 9216), "fc2": (10, 128)}
    weights = {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        weights[f"{name}.weight"] = values.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        save_file(weights, f"{folder}/weights.safetensors")
        np.savez(f"{folder}/images.npz", images=rng.integers(0, 256, (10_000, 32, 32), np.uint8))
        _run(
            f"--workdir={folder}/run", "--config=configs/mnist.py", "--config.data.source=npz",
            f"--config.data.path={folder}/images.npz", "--config.data.split=",
            f"--config.classifier.weights={folder}/weights.safetensors",
            "--config.generator.name=grey", "--config.explain.objective=ssr",
            "--config.explain.num_steps=2", "--config.explain.num_samples=2",
            "--config.batch.unit_size=100", "--config.report.save_images=false",
        )  # fmt: skip
        complete = pathlib.Path(folder, "run/records.zarr/complete/c")
        times = np.sort([path.stat().st_mtime for path in complete.iterdir()])
    fifth = len(times) // 5
    # The median, since other load of the machine affects only a few units.
    first, last = (np.median(np.diff(part)) for part in (times[:fifth], times[-fifth:]))
    yield f"{100 / first:.0f} and {100 / last:.0f} images/s, ratio {first / last:.2f}"


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "cost": predict_cost,
    "idle": measure_idle,
    "flat": measure_flat,
}


def _photographs(folder: str, size: tuple[int, int], number: int) -> np.ndarray:
    source = open_source(DataConfig(source="folder", path=folder))
    return np.stack([source.pixels(index, (*size, 3), "crop") for index in range(number)])


def _explanation_seconds(solver: Solver, pixels: np.ndarray) -> float:
    solver.compile(len(pixels))
    images = np.concatenate([pixels] * solver.num_devices)
    job = Images(images, np.zeros(len(images), np.int32), np.arange(len(images)))
    list(solver.stream([("warm", job)]))
    start = time.perf_counter()
    list(solver.stream([("timed", job)]))
    return (time.perf_counter() - start) * solver.num_devices / len(images)


def _run(*arguments: str) -> str:
    """Runs the command of the package; returns its log."""
    process = subprocess.run(
        [sys.executable, "-m", "cfx_jax.main", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if process.returncode:
        raise RuntimeError(process.stderr)
    return process.stderr


if __name__ == "__main__":
    main()
