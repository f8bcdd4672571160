"""Makes vit_golden.npz and vit_shapes.json.gz from torchvision and timm; run by hand, once.

Not a test. In a separate environment, with cfx_jax and pytest installed:

    pip install torch torchvision timm
    python tests/classifiers/make_vit_golden.py

The golden files were made with torch 2.15.0 (CPU), torchvision 0.29.0 and timm 1.0.31. Nothing is
downloaded: the weights of the small networks are drawn as the test draws them.
"""

import gzip
import json

import numpy as np
import timm
import torch
import torchvision
from test_vit import (
    CLASSES,
    DEPTH,
    DIM,
    GOLDEN,
    HEADS,
    MLP_DIM,
    PATCH,
    SHAPES,
    SIZE,
    STRIDE,
    TARGET,
    draw_arrays,
    draw_images,
)

SMALL = {
    "torchvision": lambda: torchvision.models.VisionTransformer(
        SIZE, PATCH, DEPTH, HEADS, DIM, MLP_DIM, num_classes=CLASSES
    ),
    "timm": lambda: timm.models.VisionTransformer(
        SIZE,
        PATCH,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=MLP_DIM / DIM,
        num_classes=CLASSES,
    ),
}
FULL = {
    "torchvision": {
        f"vit_{size}{patch}": getattr(torchvision.models, f"vit_{size}_{patch}")
        for size in "bl"
        for patch in (16, 32)
    },
    "timm": {
        f"vit_{name[0]}{patch}": lambda name=f"vit_{name}_patch{patch}_224": timm.create_model(
            name, num_classes=1000
        )
        for name in ("small", "base", "large")
        for patch in (16, 32)
    },
}


def small_golden(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Computes logits of all images and the input gradient of one logit of the first, in float64.

    The images count as normalised.
    """
    shapes = {name: tuple(array.shape) for name, array in network.state_dict().items()}
    arrays = {name: torch.from_numpy(array) for name, array in draw_arrays(shapes).items()}
    network.load_state_dict(arrays)
    network.double().eval()
    images = torch.from_numpy(draw_images()).double().requires_grad_()
    logits = network(images.permute(0, 3, 1, 2))
    logits[0, TARGET].backward()
    gradient = images.grad[0].numpy()
    return {
        "logits": logits.detach().numpy().astype(np.float32),
        "gradient": gradient[::STRIDE, ::STRIDE].astype(np.float32),
        "gradient_norm": np.linalg.norm(gradient),
    }


def main() -> None:
    """Writes both golden files."""
    goldens = {
        f"{library}_{part}": array
        for library, make in SMALL.items()
        for part, array in small_golden(make()).items()
    }
    np.savez_compressed(GOLDEN, **goldens)
    with torch.device("meta"):
        shapes = {
            library: {
                name: {key: tuple(array.shape) for key, array in make().state_dict().items()}
                for name, make in makers.items()
            }
            for library, makers in FULL.items()
        }
    text = json.dumps(shapes, separators=(",", ":"), sort_keys=True)
    SHAPES.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
