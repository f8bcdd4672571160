"""Measures the in-filling generators on photographs and prints every table in one run.

    python benchmarks/infill.py --photos=DIR --boxes=DIR [--num_photos=200] [--only=NAME ...]

`--photos` is a folder of photographs with a manifest.csv (columns file, split), of which the split
`heldout` is used. `--boxes` is a folder of photographs with a manifest.csv (columns file, label,
width, height, boxes: `x0 y0 x1 y1` in pixels, several separated by `;`). Most of the
time is spent on the biharmonic in-painting of scikit-image, which takes seconds per image.
"""

import argparse
import csv
import functools
import os
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from skimage.restoration import inpaint_biharmonic
from timing import ratio

from cfx_jax.classifiers import Classifier, efficientnet_lite, log_odds
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source
from cfx_jax.registry import load_classifier, load_generator
from cfx_jax.runs import parallel
from cfx_jax.train import fill_images, frechet_distance, heldout_masks, measure_quality

SIZE = (224, 224)
BATCH = 8
GENERATORS = ("gated_unet", "grey", "local_mean", "blur")
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main() -> None:
    """Runs the chosen benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True)
    parser.add_argument("--boxes", required=True)
    parser.add_argument("--num_photos", type=int, default=200)
    parser.add_argument("--weights", help="of gated_unet, instead of the packaged ones")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, jax {jax.__version__}, {jax.devices()[0].device_kind}")
    for name in arguments.only:
        print(f"\n{name}: {BENCHMARKS[name].__doc__}", flush=True)
        for line in BENCHMARKS[name](arguments):
            print(f"  {line}", flush=True)


def quality_table(arguments: argparse.Namespace) -> Iterator[str]:
    """PSNR inside the hole (dB) / SSIM / Frechet distance of EfficientNet-Lite0 features."""
    source = open_source(DataConfig(source="folder", path=arguments.photos, split="heldout"))
    count = min(arguments.num_photos, len(source))
    images = np.stack([source.load(i * len(source) // count, SIZE, "crop") for i in range(count)])
    masks = heldout_masks(count, SIZE)
    classifier = load_classifier("efficientnet_lite0")
    truth = _features(classifier, images)
    yield f"{count} photographs of {len(source)}"
    yield "".join(f"{name:>22}" for name in ("", *masks))
    for name, filler in _fillers(arguments).items():
        cells = []
        for mask in masks.values():
            infilled = filler(images, mask)
            quality = measure_quality(infilled, images, mask)
            distance = frechet_distance(_features(classifier, infilled), truth)
            cells.append(f"{quality.psnr:.2f} / {quality.ssim:.3f} / {distance:.1f}")
        yield f"{name:>22}" + "".join(f"{cell:>22}" for cell in cells)


def measure_object(arguments: argparse.Namespace) -> Iterator[str]:
    """Fills the boxes of the object: share still classified as the target, mean log-odds."""
    source = open_source(DataConfig(source="folder", path=arguments.boxes))
    images = np.stack([source.load(i, SIZE, "stretch") for i in range(len(source))])
    masks = _box_masks(pathlib.Path(arguments.boxes) / "manifest.csv")
    labels = np.asarray([source.label(i) for i in range(len(source))])
    classifier = load_classifier("efficientnet_lite0")
    yield f"{len(images)} photographs, {1 - masks.mean():.0%} of the pixels are in a box"
    for name, filler in {"image": lambda images, _: images, **_fillers(arguments)}.items():
        logits = _in_batches(classifier.apply, classifier.params, filler(images, masks))
        odds = jax.vmap(log_odds)(jnp.asarray(logits), jnp.asarray(labels))
        still = np.mean(logits.argmax(axis=1) == labels)
        yield f"{name:>12}  {still:6.1%}  {float(jnp.mean(odds)):7.2f}"


def compare_speed(arguments: argparse.Namespace) -> Iterator[str]:
    """gated_unet forward / EfficientNet-Lite0 forward and input gradient, 8 x 224 x 224."""
    generator = load_generator("gated_unet", arguments.weights)
    classifier = load_classifier("efficientnet_lite0")
    images = jax.random.uniform(jax.random.key(0), (BATCH, *SIZE, 3))
    mask = jnp.round(images[..., :1])
    infill = jax.jit(generator.apply)
    gradient = jax.jit(
        jax.grad(lambda images, params: classifier.apply(params, images)[:, 285].sum())
    )
    yield ratio(
        lambda: infill(generator.params, images, mask, jax.random.key(0)),
        lambda: gradient(images, classifier.params),
        "gated_unet",
        "classifier",
    )


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "speed": compare_speed,
    "object": measure_object,
    "quality": quality_table,
}


def _fillers(arguments: argparse.Namespace) -> dict[str, Fill]:
    fillers: dict[str, Fill] = {
        name: functools.partial(
            fill_images, load_generator(name, arguments.weights if name == "gated_unet" else None)
        )
        for name in GENERATORS
    }
    return fillers | {"biharmonic": _biharmonic}


def _biharmonic(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    filled = [
        inpaint_biharmonic(image * mask, mask[..., 0] < 0.5, channel_axis=-1)
        for image, mask in zip(images, masks, strict=True)
    ]
    return np.clip(np.stack(filled), 0.0, 1.0).astype(np.float32)


def _features(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    return _in_batches(
        lambda params, x: efficientnet_lite.features(params, x)["pooled"], classifier.params, images
    )


def _in_batches(
    function: Callable[..., jax.Array], params: object, images: np.ndarray
) -> np.ndarray:
    compiled = jax.jit(function)
    batches = [parallel.pad(batch, BATCH) for batch in parallel.slices(images, BATCH)]
    return np.concatenate([compiled(params, batch) for batch in batches])[: len(images)]


def _box_masks(manifest: pathlib.Path) -> np.ndarray:
    """Returns masks, 0 inside of the boxes, `[N, H, W, 1]`, for images stretched to `SIZE`."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    masks = np.ones((len(rows), *SIZE, 1), np.float32)
    for mask, row in zip(masks, rows, strict=True):
        scale = np.asarray([SIZE[1] / int(row["width"]), SIZE[0] / int(row["height"])])
        for box in row["boxes"].split(";"):
            corners = np.asarray(box.split(), float).reshape(2, 2) * scale
            (left, top), (right, bottom) = corners.round().astype(int)
            mask[top:bottom, left:right] = 0.0
    return masks


if __name__ == "__main__":
    main()
