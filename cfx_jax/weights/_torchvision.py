"""Layouts of the convolutional networks published by torchvision and the PyTorch examples."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cfx_jax.classifiers import LAYERS, VGG, AlexNet, MnistCNN, ResNet
from cfx_jax.weights.layout import Layer, conv, dense


def resnet(network: ResNet) -> list[Layer]:
    """Returns the layout of a ResNet in torchvision, and in timm, which also has deep stems."""
    last = len(network.stem_features) - 1
    layers = [
        conv(f"stem_{i}", f"conv1.{3 * i}", "bn1" if i == last else f"conv1.{3 * i + 1}")
        for i in range(last + 1)
    ] or [conv("conv1", "conv1", "bn1")]
    for stage, size in enumerate(network.stage_sizes):
        for block in range(size):
            path, block_name = f"stage_{stage}_block_{block}", f"layer{stage + 1}.{block}"
            layers += [
                conv(f"{path}/conv{i}", f"{block_name}.conv{i}", f"{block_name}.bn{i}")
                for i in range(1, 4 if network.bottleneck else 3)
            ]
            # The first stage of basic blocks changes neither size nor channels.
            if block == 0 and (stage > 0 or network.bottleneck):
                name = f"{block_name}.downsample"
                if network.pooled_downsample:
                    layers.append(conv(f"{path}/pooled_downsample", f"{name}.1", f"{name}.2"))
                else:
                    layers.append(conv(f"{path}/downsample", f"{name}.0", f"{name}.1"))
    return [*layers, dense("classifier", "fc")]


RESNET_VARIANTS = ({"stem_features": (32, 32, 64)}, {"pooled_downsample": True})
"""Alternative fields, which follow from the names of the arrays."""


def infer_resnet_fields(
    network: ResNet, arrays: Mapping[str, np.ndarray], arguments: Mapping[str, Any]
) -> ResNet:
    """Sets the widths of a deep stem from the shapes of its kernels.

    Args:
        network: network with its variant fields.
        arrays: arrays by the path of the parameter in our network.
        arguments: arguments of timm.

    Returns:
        The network with the `stem_features` of the arrays.
    """
    del arguments
    kernels = [arrays.get(f"stem_{index}/kernel") for index in range(len(network.stem_features))]
    widths = tuple(
        kernel.shape[-1] for kernel in kernels if kernel is not None and kernel.ndim == 4
    )
    return network.clone(stem_features=widths) if len(widths) == len(kernels) else network


def vgg(network: VGG) -> list[Layer]:
    """Returns the layout of a VGG without batch normalisation."""
    convs = [conv(path, f"features.{i}") for i, path in _vgg_convs(network, 2)]
    return [*convs, *_vgg_head((0, 3, 6))]


def vgg_bn(network: VGG) -> list[Layer]:
    """Returns the layout of a VGG with batch normalisation."""
    convs = [
        conv(path, f"features.{i}", f"features.{i + 1}", bias=True)
        for i, path in _vgg_convs(network, 3)
    ]
    return [*convs, *_vgg_head((0, 3, 6))]


def alexnet(network: AlexNet) -> list[Layer]:
    """Returns the layout of an AlexNet."""
    del network
    indices, index = [], 0
    for layer in LAYERS:
        indices.append(index)
        index += 3 if layer.pool else 2
    convs = [conv(f"conv_{i}", f"features.{index}") for i, index in enumerate(indices)]
    return [*convs, *_vgg_head((1, 4, 6))]


def mnist_cnn(network: MnistCNN) -> list[Layer]:
    """Returns the layout of the PyTorch MNIST example."""
    del network
    convs = [conv(name, name) for name in ("conv1", "conv2")]
    return [*convs, dense("dense", "fc1"), dense("classifier", "fc2")]


def _vgg_convs(network: VGG, modules: int) -> Iterator[tuple[int, str]]:
    """Yields the index in `features` and the path of each convolution, `modules` apart."""
    index = 0
    for stage, widths in enumerate(network.stages):
        for layer in range(len(widths)):
            yield index, f"stage_{stage}_conv_{layer}"
            index += modules
        index += 1  # The max pool.


def _vgg_head(indices: tuple[int, int, int]) -> list[Layer]:
    paths = ("dense_0", "dense_1", "classifier")
    return [dense(path, f"classifier.{i}") for path, i in zip(paths, indices, strict=True)]
