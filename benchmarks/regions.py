"""Compares settings on photographs: size, success, transfer and stability of the regions.

    python benchmarks/regions.py --photos=DIR --out=DIR [--num_photos=64 --skip=16] \
        --settings old:region new:region,num_steps=120,mask_size=28 [--keys 0 1] \
        [--changes none noise jpeg shift] [--part=0/2] [--tables]

The folder `--photos` contains labelled photographs. Of a fixed shuffle, the first that
EfficientNet-Lite0 classifies correctly are explained (SSR and SDR, in-fill `gated_unet`), once for
each of `--keys` and each of `--changes`: `none`, `noise` (uniform, up to 1/255 per pixel), `jpeg`
(quality 90) or `shift` (one pixel to the left). `--skip=16` leaves out the first 16, so that
settings can be chosen on these and reported on the others. Every result is a file in `--out`.
Existing files are kept, so that an interrupted run is resumed, and several processes, each with its
`--part`, can share the work.

`--tables` evaluates the regions: the share of the image that is kept (SSR) or in-filled (SDR), the
number of parts, the success rate of hard masks, and whether the region keeps (SSR) or flips (SDR)
the prediction in four evaluations: of the same network, of EfficientNet-Lite1 and -Lite2, and of
the same network with a blurred in-fill. The lines `at SHARE` evaluate the pixels of largest
saliency, up to that share of the image, so that methods are compared at equal share, with Grad-CAM
as a reference. `mean of keys` averages the maps of all keys.
"""

import argparse
import ast
import functools
import io
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cfx_jax import Classifier, Generator, Status, explain_both
from cfx_jax.baselines import attribute
from cfx_jax.classifiers import predict
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source
from cfx_jax.fido import DIRECTIONS
from cfx_jax.metrics import bootstrap, masks
from cfx_jax.registry import load_classifier, load_generator

CHANGES = ("none", "noise", "jpeg", "shift")
SHARES = (0.1, 0.16, 0.25, 0.4)
SIZE, BATCH_SIZE = 224, 4


class Photograph(NamedTuple):
    """A photograph, uint8 `[H, W, 3]`, with its class."""

    name: str
    pixels: np.ndarray
    label: int


def change_pixels(pixels: np.ndarray, change: str, seed: int) -> np.ndarray:
    """Returns a photograph with an imperceptible change, uint8 `[H, W, 3]`."""
    if change == "noise":
        noise = np.random.default_rng(seed).integers(-1, 2, pixels.shape)
        return (pixels.astype(int) + noise).clip(0, 255).astype(np.uint8)
    if change == "jpeg":
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        return np.asarray(Image.open(file))
    if change == "shift":
        return np.concatenate([pixels[:, 1:], pixels[:, -1:]], axis=1)
    return pixels


def choose(path: str, classifier: Classifier, skip: int, number: int) -> list[Photograph]:
    """Returns `number` correctly classified photographs of a fixed shuffle, after `skip` others."""
    source = open_source(DataConfig(source="folder", path=path, resize="stretch"))
    classify = jax.jit(lambda params, images: predict(classifier.apply(params, images)))
    found: list[Photograph] = []
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        pixels, label = source.pixels(index, (SIZE, SIZE, 3), "stretch"), source.label(index)
        if int(classify(classifier.params, jnp.float32(pixels[None]) / 255)[0]) == label:
            found.append(Photograph(source.ids[index].replace("/", "_"), pixels, label))
        if len(found) == skip + number:
            break
    return found[skip:]


class Variant(NamedTuple):
    """Named settings, with a key and a change of the pixels."""

    name: str
    mode: str
    fields: tuple[tuple[str, Any], ...]
    key: int
    change: str

    def path(self, out: pathlib.Path, photo: Photograph) -> pathlib.Path:
        """Returns the path of the file with the result of a photograph."""
        return out / f"{self.name}-{self.key}-{self.change}" / f"{photo.name}.npz"


def explain_missing(
    variant: Variant,
    photos: list[Photograph],
    out: pathlib.Path,
    classifier: Classifier,
    generator: Generator,
) -> None:
    """Explains the photographs that have no result yet, in batches of the same size."""
    missing = [photo for photo in photos if not variant.path(out, photo).exists()]
    for start in range(0, len(missing), BATCH_SIZE):
        batch = missing[start : start + BATCH_SIZE]
        padded = batch + batch[:1] * (BATCH_SIZE - len(batch))
        pixels = [change_pixels(p.pixels, variant.change, 7) for p in padded]
        both = explain_both(
            jax.random.key(variant.key),
            classifier,
            generator,
            jnp.float32(np.stack(pixels)) / 255,
            jnp.asarray([photo.label for photo in padded]),
            mode=variant.mode,
            **dict(variant.fields),
        )
        for row, photo in enumerate(batch):
            path = variant.path(out, photo)
            path.parent.mkdir(parents=True, exist_ok=True)
            values: dict[str, Any] = {
                f"{objective}_{name}": np.asarray(getattr(both[objective], name)[row], dtype)
                for objective in DIRECTIONS
                for name, dtype in (
                    ("saliency", np.float16), ("success_rate", np.float32),
                    ("stability", np.float32), ("status", np.int32),
                )
                # Settings without a warm start have no stability.
                if getattr(both[objective], name) is not None
            }  # fmt: skip
            np.savez_compressed(path, **values)
        print(f"{variant.name}-{variant.key}-{variant.change}: {start + len(batch)}", flush=True)


class Evaluators:
    """Evaluates whether regions keep or flip the prediction, with several networks and in-fills."""

    def __init__(self, classifier: Classifier, generator: Generator) -> None:
        """Loads the networks and in-fills."""
        names = ("efficientnet_lite1", "efficientnet_lite2")
        evaluators = [(classifier, generator)]
        evaluators += [(load_classifier(name), generator) for name in names]
        evaluators.append((classifier, load_generator("blur")))
        self.names = ("Lite0", "Lite1", "Lite2", "Lite0 with blur")
        self._functions = [
            jax.jit(functools.partial(_decide, *evaluator)) for evaluator in evaluators
        ]

    def decide(self, photo: Photograph, regions: np.ndarray, objective: str) -> np.ndarray:
        """Returns whether regions `[R, H, W]` succeed with each network and in-fill.

        Returns:
            float `[R, 4]`, 1 where a region succeeds, else 0; NaN for a network that does not
            predict the label on the photograph itself.
        """
        image = jnp.float32(photo.pixels) / 255
        kept = regions if objective == "ssr" else ~regions
        whole = np.ones_like(kept[:1])
        stack = jnp.float32(np.concatenate([whole, kept]))[..., None]
        columns = []
        for function in self._functions:
            is_label = np.asarray(function(image, stack) == photo.label)
            success = is_label[1:] == (objective == "ssr")
            columns.append(np.where(is_label[0], success, np.nan))
        return np.stack(columns, axis=1)


def _decide(
    classifier: Classifier, generator: Generator, image: jax.Array, stack: jax.Array
) -> jax.Array:
    size = classifier.image_size or (SIZE, SIZE)

    def one(mask: jax.Array) -> jax.Array:
        fill = generator.apply(generator.params, image[None], mask[None], jax.random.key(0))[0]
        filled = mask * image + (1 - mask) * fill
        resized = jax.image.resize(filled, (*size, 3), "cubic").clip(0, 1)
        return predict(classifier.apply(classifier.params, resized[None]))[0]

    return jax.lax.map(one, stack)


def top_region(saliency: np.ndarray, share: float) -> np.ndarray:
    """Returns the pixels of largest saliency, up to a share of the image, bool `[H, W]`."""
    order = np.argsort(-saliency.ravel(), kind="stable")
    region = np.zeros(saliency.size, bool)
    region[order[: round(share * saliency.size)]] = True
    return region.reshape(saliency.shape)


def grad_cam_maps(
    photos: list[Photograph], classifier: Classifier, generator: Generator
) -> dict[str, np.ndarray]:
    """Returns the Grad-CAM map of each photograph, by name."""
    maps = {}
    for photo in photos:
        image = jnp.float32(photo.pixels[None]) / 255
        target = jnp.asarray([photo.label])
        found = attribute("grad_cam", jax.random.key(0), classifier, generator, image, target)
        maps[photo.name] = np.asarray(found[0], np.float32)
    return maps


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the IoU of two regions."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def tables(
    variants: list[Variant], photos: list[Photograph], out: pathlib.Path, classifier: Classifier
) -> Iterator[str]:
    """Yields the lines of all tables, for the photographs explained with every variant."""
    photos = [p for p in photos if all(v.path(out, p).exists() for v in variants)]
    generator = load_generator("gated_unet")
    evaluators, results = Evaluators(classifier, generator), {}
    for variant in variants:
        results[variant] = [dict(np.load(variant.path(out, photo))) for photo in photos]
    cams = grad_cam_maps(photos, classifier, generator)
    for objective in DIRECTIONS:
        yield f"\n{objective}, {len(photos)} photographs"
        maps: dict[str, list[np.ndarray]] = {}
        for variant, found in results.items():
            saliency = [one[f"{objective}_saliency"].astype(np.float32) for one in found]
            if variant.change == "none":
                maps[f"{variant.name}-{variant.key}"] = saliency
                yield from _describe(variant, objective, found, saliency, photos, evaluators)
        for name, keys in itertools.groupby(list(maps), lambda text: text.rpartition("-")[0]):
            if len(names := list(keys)) > 1:
                maps[f"mean of keys of {name}"] = [
                    np.mean(ones, axis=0) for ones in zip(*(maps[n] for n in names), strict=True)
                ]
        maps["grad_cam"] = [cams[photo.name] for photo in photos]
        for share in SHARES:
            for name, saliency in maps.items():
                regions = [top_region(one, share) for one in saliency]
                success = measure_success(photos, regions, objective, evaluators)
                yield f"  at {share:.2f} {name:24} {success}"
        yield from _stability(results, objective)


def _describe(
    variant: Variant,
    objective: str,
    found: list[dict[str, np.ndarray]],
    saliency: list[np.ndarray],
    photos: list[Photograph],
    evaluators: Evaluators,
) -> Iterator[str]:
    regions = [one > 0.5 for one in saliency]
    share = np.asarray([one.mean() for one in regions])
    parts = float(np.mean(masks.count_parts(np.stack(regions))))
    rate = np.mean([one[f"{objective}_success_rate"] for one in found])
    ok = np.mean([one[f"{objective}_status"] == Status.OK for one in found])
    name = f"{variant.name}-{variant.key}"
    yield (
        f"  {name:20} share {bootstrap(share)}, parts {parts:.1f}, success {rate:.3f}, "
        f"OK {ok:.3f}, region: {measure_success(photos, regions, objective, evaluators)}"
    )


def measure_success(
    photos: list[Photograph], regions: list[np.ndarray], objective: str, evaluators: Evaluators
) -> str:
    """Returns the shares of regions that succeed with each network and in-fill, as text."""
    rows = [
        evaluators.decide(p, r[None], objective)[0] for p, r in zip(photos, regions, strict=True)
    ]
    means = np.nanmean(np.stack(rows), axis=0)
    return ", ".join(f"{n} {m:.3f}" for n, m in zip(evaluators.names, means, strict=True))


def _stability(
    results: dict[Variant, list[dict[str, np.ndarray]]], objective: str
) -> Iterator[str]:
    """Yields the IoU of the regions of two keys, and of a changed and an unchanged image."""
    regions = {
        v: [one[f"{objective}_saliency"] > 0.5 for one in found] for v, found in results.items()
    }
    for first, second in itertools.combinations(regions, 2):
        differ = first.key != second.key, first.change != second.change
        if first.name != second.name or sum(differ) != 1 or first.change != "none":
            continue
        a, b = regions[first], regions[second]
        if second.change == "shift":  # Undo the shift, so that the pixels correspond.
            b = [np.roll(one, 1, axis=1) for one in b]
        ious = np.asarray([intersection_over_union(*both) for both in zip(a, b, strict=True)])
        label = f"{first.name}: {first.key}, {first.change} / {second.key}, {second.change}"
        yield f"  IoU {label:44} {bootstrap(ious)}"


def _parse_variants(arguments: argparse.Namespace) -> list[Variant]:
    variants = []
    for text in arguments.settings:
        title, _, rest = text.partition(":")
        mode, *fields = rest.split(",")
        pairs = (field.partition("=") for field in fields)
        values = tuple((name, ast.literal_eval(value)) for name, _, value in pairs)
        variants += [
            Variant(title, mode, values, key, change)
            for key, change in itertools.product(arguments.keys, arguments.changes)
        ]
    return variants


def main() -> None:
    """Computes the missing explanations, or prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, help="folder of labelled photographs")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder of results")
    parser.add_argument("--settings", nargs="+", required=True, metavar="NAME:MODE[,FIELD=VALUE]")
    parser.add_argument("--num_photos", type=int, default=16)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--keys", nargs="+", type=int, default=[0])
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=["none"])
    parser.add_argument("--part", default="0/1", help="0/2 or 1/2, of two processes")
    parser.add_argument("--tables", action="store_true")
    arguments = parser.parse_args()
    classifier = load_classifier("efficientnet_lite0")
    photos = choose(arguments.photos, classifier, arguments.skip, arguments.num_photos)
    variants = _parse_variants(arguments)
    if arguments.tables:
        for line in tables(variants, photos, arguments.out, classifier):
            print(line, flush=True)
        return
    index, number = map(int, arguments.part.split("/"))
    generator = load_generator("gated_unet")
    for variant in variants:
        explain_missing(variant, photos[index::number], arguments.out, classifier, generator)


if __name__ == "__main__":
    main()
