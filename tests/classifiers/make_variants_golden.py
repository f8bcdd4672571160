"""Makes variants_golden.npz and variants_shapes.json.gz; run by hand, once.

Not a test. In a separate environment, with cfx_jax and pytest installed:

    pip install torch torchvision timm transformers
    python tests/classifiers/make_variants_golden.py

The golden files were made with torch 2.13.0 (CPU), torchvision 0.28.0, timm 1.0.31 and transformers
5.24.0. Nothing is downloaded: the weights of the small networks are drawn as the test draws them.
"""

import gzip
import json
import tempfile
from collections.abc import Callable

import numpy as np
import timm
import torch
import transformers
from safetensors.numpy import load_file, save_file
from test_variants import (
    BASIC,
    BOTTLENECK,
    CLASSES,
    CONVNEXT,
    GOLDEN,
    SHAPES,
    SMALL,
    STRIDE,
    TARGET,
    VIT,
    draw_arrays,
    draw_images,
)
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

IGNORED = "num_batches_tracked"
FEATURES, SIZES = CONVNEXT.features, CONVNEXT.stage_sizes


def torchvision_convnext() -> nn.Module:
    """Makes the small ConvNeXt of torchvision."""
    outs = (*FEATURES[1:], None)
    stages = [CNBlockConfig(*stage) for stage in zip(FEATURES, outs, SIZES, strict=True)]
    return TorchvisionConvNeXt(stages, num_classes=CLASSES)


def vit(make: Callable[..., nn.Module] = timm.models.VisionTransformer, **arguments) -> nn.Module:
    """Makes the small ViT of timm."""
    return make(
        VIT.image_size,
        VIT.patch,
        embed_dim=VIT.dim,
        depth=VIT.depth,
        num_heads=VIT.heads,
        mlp_ratio=VIT.mlp_dim / VIT.dim,
        num_classes=CLASSES,
        **arguments,
    )


def resnet_d(block: type[nn.Module], sizes: tuple[int, ...], width: int) -> nn.Module:
    """Makes a small ResNet-D of timm."""
    return timm.models.ResNet(
        block, sizes, CLASSES, stem_type="deep", stem_width=width, avg_down=True
    )


VIT_CONFIG = {
    "hidden_size": VIT.dim,
    "num_hidden_layers": VIT.depth,
    "num_attention_heads": VIT.heads,
    "intermediate_size": VIT.mlp_dim,
    "image_size": VIT.image_size,
    "patch_size": VIT.patch,
    "num_labels": CLASSES,
}
CONVNEXT_CONFIG = {"depths": list(SIZES), "hidden_sizes": list(FEATURES), "num_labels": CLASSES}
ORIGINALS: dict[str, Callable[[], nn.Module]] = {
    "convnext_torchvision": torchvision_convnext,
    "convnext_timm": lambda: timm.models.ConvNeXt(num_classes=CLASSES, depths=SIZES, dims=FEATURES),
    "convnext_transformers": lambda: transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(**CONVNEXT_CONFIG)
    ),
    "vit_registers": lambda: vit(init_values=1.0, reg_tokens=3, no_embed_class=True),
    "vit_registers_with_positions": lambda: vit(reg_tokens=2),
    "vit_mean": lambda: vit(global_pool="avg"),
    "vit_mean_of_normed": lambda: vit(global_pool="avg", fc_norm=False),
    "vit_without_class_token": lambda: vit(global_pool="avg", fc_norm=False, class_token=False),
    "vit_distilled": lambda: vit(timm.models.deit.VisionTransformerDistilled),
    "vit_transformers": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**VIT_CONFIG)
    ),
    "deit_transformers": lambda: transformers.DeiTForImageClassificationWithTeacher(
        transformers.DeiTConfig(**VIT_CONFIG)
    ),
    "resnet_d_basic": lambda: resnet_d(timm.models.resnet.BasicBlock, BASIC.stage_sizes, 32),
    "resnet_d_bottleneck": lambda: resnet_d(
        timm.models.resnet.Bottleneck, BOTTLENECK.stage_sizes, 16
    ),
}


def with_drawn_weights(network: nn.Module) -> tuple[nn.Module, dict[str, tuple[int, ...]]]:
    """Returns the network with weights drawn by name, and names and shapes as it saves them."""
    if not isinstance(network, transformers.PreTrainedModel):
        state = network.state_dict()
        shapes = {name: tuple(array.shape) for name, array in state.items() if IGNORED not in name}
        arrays = {name: torch.from_numpy(a) for name, a in draw_arrays(shapes).items()}
        network.load_state_dict(state | arrays)
        return network, shapes
    # It saves its arrays under other names than those of its modules.
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        file = f"{folder}/model.safetensors"
        shapes = {name: array.shape for name, array in load_file(file).items()}
        save_file(draw_arrays(shapes), file, metadata={"format": "pt"})
        return type(network).from_pretrained(folder), shapes


def small_golden(name: str, network: nn.Module) -> dict[str, np.ndarray]:
    """Computes logits of all images and the input gradient of one logit of the first, in float64.

    The images count as normalised.
    """
    network.double().eval()
    images = torch.from_numpy(draw_images(SMALL[name][2])).double().requires_grad_()
    logits = network(images.permute(0, 3, 1, 2))
    logits = getattr(logits, "logits", logits)
    logits[0, TARGET].backward()
    gradient = images.grad[0].numpy()
    return {
        f"{name}_logits": logits.detach().numpy().astype(np.float32),
        f"{name}_gradient": gradient[::STRIDE, ::STRIDE].astype(np.float32),
        f"{name}_gradient_norm": np.linalg.norm(gradient),
    }


def main() -> None:
    """Writes both golden files."""
    goldens: dict[str, np.ndarray] = {}
    shapes = {}
    for name, make in ORIGINALS.items():
        network, shapes[name] = with_drawn_weights(make())
        goldens |= small_golden(name, network)
    np.savez_compressed(GOLDEN, **goldens)
    text = json.dumps(shapes, separators=(",", ":"))
    SHAPES.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
