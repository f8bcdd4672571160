"""Makes oracle_golden.npz; run by hand, once.

Not a test. In a separate environment, with cfx_jax and pytest installed:

    pip install torch captum==0.8.0 quantus==0.6.0
    python tests/metrics/make_oracle_golden.py

The golden file was made with torch 2.15.0 (CPU), captum 0.8.0 and quantus 0.6.0.
"""

import numpy as np
import quantus
import torch
from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    Saliency,
)
from test_oracles import (
    CHANNELS,
    CLASSES,
    FLIPPED,
    GOLDEN,
    IG_STEPS,
    SIZE,
    TARGETS,
    draw_images,
    draw_maps,
    draw_params,
)
from torch import nn


class SmallNetwork(nn.Module):
    """The network of the test, channels first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.maps = nn.ReLU()
        self.head = nn.Linear(8, CLASSES)
        params = draw_params(channels)
        for layer, ours in (
            (self.first, params["first"]),
            (self.second, params["second"]["conv"]),
            (self.head, params["head"]),
        ):
            axes = (3, 2, 0, 1) if ours["kernel"].ndim == 4 else (1, 0)
            layer.weight.data = torch.from_numpy(ours["kernel"].transpose(axes).copy())
            layer.bias.data = torch.from_numpy(ours["bias"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits."""
        hidden = self.maps(self.second(torch.relu(self.first(images))))
        return self.head(hidden.mean((2, 3)))


def captum_maps() -> dict[str, np.ndarray]:
    """Maps `[N, H, W]` by the names of our methods, and the logits."""
    network = SmallNetwork(CHANNELS).double().eval()
    images = torch.from_numpy(draw_images(CHANNELS)).double().permute(0, 3, 1, 2)
    images.requires_grad_()
    target = torch.tensor(TARGETS)
    coarse = LayerGradCam(network, network.maps).attribute(images, target, relu_attributions=True)
    steps = IntegratedGradients(network).attribute(
        images, target=target, n_steps=IG_STEPS, method="riemann_middle"
    )
    maps = {
        "gradient": Saliency(network).attribute(images, target).amax(1),
        "gradient_x_input": InputXGradient(network).attribute(images, target).sum(1),
        "integrated_gradients": steps.sum(1),
        "grad_cam": LayerAttribution.interpolate(coarse, (SIZE, SIZE), "bilinear")[:, 0],
        "logits": network(images),
    }
    return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in maps.items()}


def quantus_flipping() -> np.ndarray:
    """Probability of the target after each pixel that turns black, `[N, H * W]`."""
    metric = quantus.PixelFlipping(
        features_in_step=1, perturb_baseline=0.0, normalise=False, disable_warnings=True
    )
    images = np.ascontiguousarray(draw_images(1).transpose(0, 3, 1, 2))
    curves = metric(
        model=SmallNetwork(1).eval(),
        x_batch=images,
        y_batch=np.asarray(FLIPPED),
        a_batch=draw_maps()[:, None],
        softmax=True,
        device="cpu",
    )
    return np.asarray(curves, np.float32)


def main() -> None:
    """Writes the golden file."""
    np.savez_compressed(GOLDEN, **captum_maps(), pixel_flipping=quantus_flipping())


if __name__ == "__main__":
    main()
