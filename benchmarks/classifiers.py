"""Compares the classifiers with their PyTorch originals and measures their accuracy.

    python benchmarks/classifiers.py [--only=NAME ...] [--photos=DIR]

`--photos` is a folder of labelled ImageNet photographs with a manifest.csv (columns file, label).
"""

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timm
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from timing import ratio

from cfx_jax.classifiers import NormalizedModule
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source
from cfx_jax.registry import load_classifier
from cfx_jax.weights import ARCHITECTURES

BATCH, STEPS = 8, 2
CLASS = 5
TIMM = {"t": "tiny", "s": "small", "b": "base", "l": "large"}
LITE = [name for name in ARCHITECTURES if name.startswith("efficientnet_lite")]


class MnistCNN(torch.nn.Sequential):
    """The network of the PyTorch MNIST example."""

    def __init__(self) -> None:
        convs = (torch.nn.Conv2d(1, 32, 3), torch.nn.Conv2d(32, 64, 3))
        relu, pool, flat = torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten()
        dense = (torch.nn.Linear(9216, 128), torch.nn.Linear(128, 10))
        super().__init__(convs[0], relu, convs[1], relu, pool, flat, dense[0], relu, dense[1])


def main() -> None:
    """Prints a line for every classifier."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--photos", help="prints top-1 of the EfficientNet-Lites, too")
    arguments = parser.parse_args()
    versions = f"jax {jax.__version__}, torch {torch.__version__}"
    print(f"{os.cpu_count()} cores, {versions}, {jax.devices()[0].device_kind}")
    print(
        f"{STEPS} forwards and input gradients of {BATCH} images: ours / PyTorch eager", flush=True
    )
    for name in arguments.only:
        print(f"  {name:18} {compare(name)}", flush=True)
    if arguments.photos:
        for line in top_1(arguments.photos):
            print(f"  {line}", flush=True)


def compare(name: str) -> str:
    """Compares the speed of both, with random weights, which do not change the time."""
    architecture = ARCHITECTURES[name]
    shape = (BATCH, architecture.image_size, architecture.image_size, architecture.channels)
    pixels = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    images, module = jnp.asarray(pixels), architecture.module
    params = jax.jit(module.init)(jax.random.key(0), images[:1])["params"]
    apply = NormalizedModule(module, architecture.layouts[0].normalization)
    gradient = jax.grad(lambda images, params: apply(params, images)[:, CLASS].sum())

    @jax.jit
    def ours(images: jax.Array, params: Any) -> jax.Array:
        # In a compiled loop, as in an explanation: XLA compiles the body of a loop differently.
        def step(images: jax.Array, _: None) -> tuple[jax.Array, None]:
            return images + 1e-6 * gradient(images, params), None

        return jax.lax.scan(step, images, length=STEPS)[0]

    network = original(name)().eval().requires_grad_(False)
    theirs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().requires_grad_()

    def pytorch() -> None:
        for _ in range(STEPS):
            torch.autograd.grad(network(theirs)[:, CLASS].sum(), theirs)

    return ratio(
        lambda: ours(images, params),
        pytorch,
        "cfx_jax",
        "PyTorch",
        repeats=3,
    )


def original(name: str) -> Callable[[], torch.nn.Module]:
    """Returns a function that makes the PyTorch network of the same architecture."""
    if name == "mnist_cnn":
        return MnistCNN
    if name in LITE:
        return lambda: EfficientNet.from_name(name.replace("_", "-"))
    if name.startswith("vit"):
        size, patch = TIMM[name[4]], int(name[5:])
        # timm has no name for a ViT with patches of 14 for images of 224.
        published = f"vit_{size}_patch16_224"
        return lambda: timm.create_model(published, num_classes=1000, patch_size=patch)
    make: Callable[[], torch.nn.Module] = getattr(torchvision.models, name)
    return make


def top_1(folder: str) -> Iterator[str]:
    """Returns the top-1 accuracy on the photographs, at the input size of the network."""
    source = open_source(DataConfig(source="folder", path=folder))
    labels = np.asarray([source.label(i) for i in range(len(source))])
    for name in LITE:
        classifier = load_classifier(name)
        assert classifier.image_size is not None
        predict = jax.jit(lambda params, x, f=classifier.apply: f(params, x).argmax(-1))
        found = [
            int(
                predict(classifier.params, source.load(i, classifier.image_size, "stretch")[None])[
                    0
                ]
            )
            for i in range(len(source))
        ]
        yield f"{name}: top-1 {np.mean(np.asarray(found) == labels):.1%} of {len(labels)}"


if __name__ == "__main__":
    main()
