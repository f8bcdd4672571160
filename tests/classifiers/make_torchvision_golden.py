"""Makes torchvision_golden.npz and torchvision_shapes.json.gz; run by hand, once.

Not a test. In a separate environment, with cfx_jax and pytest installed:

    pip install torch torchvision
    python tests/classifiers/make_torchvision_golden.py

The golden files were made with torch 2.15.0 (CPU) and torchvision 0.29.2. Nothing is downloaded:
the weights of the small networks are drawn as the test draws them.
"""

import gzip
import itertools
import json
from collections.abc import Callable

import numpy as np
import torch
from test_torchvision import (
    CLASSES,
    GOLDEN,
    HIDDEN,
    PUBLISHED,
    SHAPES,
    SMALL,
    STAGES,
    STRIDE,
    TARGET,
    draw_arrays,
    draw_images,
)
from torch import nn
from torchvision import models

IGNORED = "num_batches_tracked"


class MnistCNN(nn.Module):
    """The network of the PyTorch MNIST example, before its softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits."""
        hidden = torch.relu(self.conv2(torch.relu(self.conv1(images))))
        hidden = torch.flatten(torch.max_pool2d(hidden, 2), 1)
        return self.fc2(torch.relu(self.fc1(hidden)))


def with_small_head(network: nn.Module, inputs: int) -> nn.Module:
    """Narrows the dense layers of a VGG or an AlexNet, keeping their places."""
    widths = iter([(inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, CLASSES)])
    network.classifier = nn.Sequential(
        *(
            nn.Linear(*next(widths)) if isinstance(layer, nn.Linear) else layer
            for layer in network.classifier
        )
    )
    return network


def vgg(batch_norm: bool) -> nn.Module:
    """Makes the small VGG."""
    plan = list(itertools.chain.from_iterable([*stage, "M"] for stage in STAGES))
    features = models.vgg.make_layers(plan, batch_norm)
    return with_small_head(models.vgg.VGG(features, init_weights=False), STAGES[-1][-1] * 49)


ORIGINALS: dict[str, Callable[[], nn.Module]] = {
    "basic": lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], CLASSES),
    "bottleneck": lambda: models.ResNet(models.resnet.Bottleneck, [1, 2, 1, 1], CLASSES),
    "vgg": lambda: vgg(batch_norm=False),
    "vgg_bn": lambda: vgg(batch_norm=True),
    "alexnet": lambda: with_small_head(models.AlexNet(), 256 * 36),
    "mnist_cnn": MnistCNN,
}


def small_golden(name: str) -> dict[str, np.ndarray]:
    """Computes logits of all images and the input gradient of one logit of the first, in float64.

    The images count as normalised.
    """
    network = ORIGINALS[name]()
    arrays = draw_arrays(shapes(network))
    network.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()}, strict=False)
    network.double().eval()
    images = torch.from_numpy(draw_images(*SMALL[name][2:])).double().requires_grad_()
    logits = network(images.permute(0, 3, 1, 2))
    logits[0, TARGET].backward()
    gradient = images.grad[0].numpy()
    return {
        f"{name}_logits": logits.detach().numpy().astype(np.float32),
        f"{name}_gradient": gradient[::STRIDE, ::STRIDE].astype(np.float32),
        f"{name}_gradient_norm": np.linalg.norm(gradient),
    }


def shapes(network: nn.Module) -> dict[str, list[int]]:
    """Names and shapes of what the network publishes, without the counters of training."""
    state = network.state_dict()
    return {name: list(array.shape) for name, array in state.items() if IGNORED not in name}


def main() -> None:
    """Writes both golden files."""
    goldens: dict[str, np.ndarray] = {}
    for name in ORIGINALS:
        goldens |= small_golden(name)
    np.savez_compressed(GOLDEN, **goldens)
    with torch.device("meta"):
        published = {name: shapes(getattr(models, name)()) for name in PUBLISHED}
    text = json.dumps(published, separators=(",", ":"))
    SHAPES.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
