"""Times the PyTorch networks beside which `accelerator.py` sets ours; prints one line of JSON.

    python benchmarks/pytorch_networks.py --platform=gpu [--rows=256]

A process of its own: both libraries in one would share memory and the libraries of the device.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

CLASS = 5


def main() -> None:
    """Prints forward and input gradient of each network in rows/s, by name and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--platform", choices=("gpu", "cpu"), required=True)
    parser.add_argument("--resnet", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.platform == "gpu" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU")
    device = "cuda" if arguments.platform == "gpu" else "cpu"
    shape = (arguments.rows, 3, arguments.side, arguments.side)
    found = {
        "version": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "networks": {
            name: {
                kind: rows_per_second(
                    make(), torch.rand(shape), device, getattr(torch, kind), arguments.repeats
                )
                for kind in ("bfloat16", "float32")
            }
            for name, make in _known_networks(arguments.resnet).items()
        },
    }
    print(json.dumps(found))


def rows_per_second(
    network: torch.nn.Module, images: torch.Tensor, device: str, dtype: torch.dtype, repeats: int
) -> float:
    """Times forward and input gradient, eager and channels last, its fastest layout."""
    placed = {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
    network = network.eval().requires_grad_(False).to(**placed)
    images = images.to(**placed)

    def repeat() -> None:
        rows = images
        for _ in range(repeats):
            rows = rows.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(network(rows)[:, CLASS].sum(), rows)
            rows = rows + 1e-6 * gradient
        if device == "cuda":
            torch.cuda.synchronize()

    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        repeat()
        times.append(time.perf_counter() - start)
    return len(images) * repeats / statistics.median(times[1:])


def _known_networks(resnet: str) -> dict[str, Callable[[], torch.nn.Module]]:
    """Those whose libraries are installed, with random weights: they do not change the time."""
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
