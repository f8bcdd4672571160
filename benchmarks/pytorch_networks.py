"""Times the PyTorch networks with which `accelerator.py` compares; prints one line of JSON.

    python benchmarks/pytorch_networks.py --platform=gpu [--batch_size=256]

It runs in a separate process, since both libraries in one would compete for device memory.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

CLASS = 5


def main() -> None:
    """Prints the speed of each network with input gradient, images/s, by name and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--platform", choices=("gpu", "cpu"), required=True)
    parser.add_argument("--resnet", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.platform == "gpu" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU")
    device = "cuda" if arguments.platform == "gpu" else "cpu"
    shape = (arguments.batch_size, 3, arguments.side, arguments.side)
    found = {
        "version": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "networks": {
            name: {
                kind: images_per_second(
                    make(), torch.rand(shape), device, getattr(torch, kind), arguments.repeats
                )
                for kind in ("bfloat16", "float32")
            }
            for name, make in _known_networks(arguments.resnet).items()
        },
    }
    print(json.dumps(found))


def images_per_second(
    network: torch.nn.Module, images: torch.Tensor, device: str, dtype: torch.dtype, repeats: int
) -> float:
    """Times forward pass and input gradient, eager, channels last, the fastest layout."""
    placed = {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
    network = network.eval().requires_grad_(False).to(**placed)
    images = images.to(**placed)

    def repeat() -> None:
        current = images
        for _ in range(repeats):
            current = current.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(network(current)[:, CLASS].sum(), current)
            current = current + 1e-6 * gradient
        if device == "cuda":
            torch.cuda.synchronize()

    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        repeat()
        times.append(time.perf_counter() - start)
    return len(images) * repeats / statistics.median(times[1:])


def _known_networks(resnet: str) -> dict[str, Callable[[], torch.nn.Module]]:
    """Returns the networks whose libraries are installed, with random weights."""
    found: dict[str, Callable[[], torch.nn.Module]] = {}
    try:
        import torchvision

        found[resnet] = getattr(torchvision.models, resnet)
    except ImportError:
        pass
    try:
        from efficientnet_lite_pytorch import EfficientNet

        found["efficientnet_lite0"] = lambda: EfficientNet.from_name("efficientnet-lite0")
    except ImportError:
        pass
    return found


if __name__ == "__main__":
    main()
