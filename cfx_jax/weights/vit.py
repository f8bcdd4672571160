"""Published Vision Transformer arrays: torchvision, timm and the JAX original."""

import functools
from collections.abc import Iterator

import numpy as np

from cfx_jax.classifiers.vit import ViT
from cfx_jax.weights.layout import Layer, arrays_as_they_are, conv, dense, layer_norm


def torchvision(network: ViT, mlp: tuple[str, str] = ("0", "3")) -> list[Layer]:
    """Returns the layout of torchvision; its perceptrons call their layers as `mlp` says."""
    found = [
        conv("embedding", "conv_proj"),
        arrays_as_they_are(
            "", {"class_token": "class_token", "position_embedding": "encoder.pos_embedding"}
        ),
    ]
    for ours, number in _blocks(network):
        theirs = f"encoder.layers.encoder_layer_{number}"
        fused = f"{theirs}.self_attention.in_proj"
        qkv = dense(f"{ours}/qkv", fused)
        found += [
            layer_norm(f"{ours}/attention_norm", f"{theirs}.ln_1"),
            qkv._replace(sources={"kernel": f"{fused}_weight", "bias": f"{fused}_bias"}),
            dense(f"{ours}/attention_out", f"{theirs}.self_attention.out_proj"),
            layer_norm(f"{ours}/mlp_norm", f"{theirs}.ln_2"),
            dense(f"{ours}/mlp_in", f"{theirs}.mlp.{mlp[0]}"),
            dense(f"{ours}/mlp_out", f"{theirs}.mlp.{mlp[1]}"),
        ]
    return [*found, layer_norm("norm", "encoder.ln"), dense("classifier", "heads.head")]


# The weights that torchvision offers for download: it renames their arrays as it reads them.
torchvision_legacy = functools.partial(torchvision, mlp=("linear_1", "linear_2"))


def timm(network: ViT) -> list[Layer]:
    """Returns the layout of timm."""
    found = [
        conv("embedding", "patch_embed.proj"),
        arrays_as_they_are("", {"class_token": "cls_token", "position_embedding": "pos_embed"}),
    ]
    for ours, number in _blocks(network):
        theirs = f"blocks.{number}"
        found += [
            layer_norm(f"{ours}/attention_norm", f"{theirs}.norm1"),
            dense(f"{ours}/qkv", f"{theirs}.attn.qkv"),
            dense(f"{ours}/attention_out", f"{theirs}.attn.proj"),
            layer_norm(f"{ours}/mlp_norm", f"{theirs}.norm2"),
            dense(f"{ours}/mlp_in", f"{theirs}.mlp.fc1"),
            dense(f"{ours}/mlp_out", f"{theirs}.mlp.fc2"),
        ]
    return [*found, layer_norm("norm", "norm"), dense("classifier", "head")]


def npz(network: ViT) -> list[Layer]:
    """Returns the layout of the JAX original, whose attention has an axis for its heads.

    The files with a `pre_logits` layer, for the classes of ImageNet-21k, are another network.
    """
    positions = "Transformer/posembed_input/pos_embedding"
    found = [
        _named("embedding", "embedding"),
        arrays_as_they_are("", {"class_token": "cls", "position_embedding": positions}),
    ]
    for ours, number in _blocks(network):
        theirs = f"Transformer/encoderblock_{number}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        found += [
            _named(f"{ours}/attention_norm", f"{theirs}/LayerNorm_0", "scale"),
            *(
                _from_heads(f"{ours}/qkv", f"{attention}/{part}", network.heads)
                for part in ("query", "key", "value")
            ),
            _to_heads(f"{ours}/attention_out", f"{attention}/out", network.heads),
            _named(f"{ours}/mlp_norm", f"{theirs}/LayerNorm_2", "scale"),
            _named(f"{ours}/mlp_in", f"{theirs}/MlpBlock_3/Dense_0"),
            _named(f"{ours}/mlp_out", f"{theirs}/MlpBlock_3/Dense_1"),
        ]
    norm = _named("norm", "Transformer/encoder_norm", "scale")
    return [*found, norm, _named("classifier", "head")]


def _blocks(network: ViT) -> Iterator[tuple[str, int]]:
    return ((f"block_{number}", number) for number in range(network.depth))


def _named(path: str, name: str, weight: str = "kernel") -> Layer:
    return arrays_as_they_are(path, {part: f"{name}/{part}" for part in (weight, "bias")})


def _from_heads(path: str, name: str, heads: int) -> Layer:
    """A third of a dense layer; published `[dim, heads, width]`, bias `[heads, width]`."""
    return _named(path, name)._replace(
        to_ours=lambda array: array.reshape(*array.shape[:-2], -1),
        shape=lambda shape: (*shape[:-1], heads, shape[-1] // heads),
        shares=3,
    )


def _to_heads(path: str, name: str, heads: int) -> Layer:
    """A dense layer; published `[heads, width, dim]`, bias `[dim]`."""

    def shape(ours: tuple[int, ...]) -> tuple[int, ...]:
        return (heads, ours[0] // heads, ours[1]) if len(ours) == 2 else ours

    def to_ours(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array

    return _named(path, name)._replace(to_ours=to_ours, shape=shape)
