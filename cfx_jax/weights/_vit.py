"""Published Vision Transformer arrays: torchvision, timm, transformers and the JAX original."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cfx_jax.classifiers import ViT
from cfx_jax.weights.layout import Layer, arrays_as_they_are, conv, dense, layer_norm

VARIANTS = (
    {"layer_scale": True},
    {"norm_pooled": True, "mean_pool": True},
    {"class_token": False, "mean_pool": True},
    {"distilled": True},
    {"registers": 4},
)
"""What the names of arrays tell."""


def measure(network: ViT, arrays: Mapping[str, np.ndarray], said: Mapping[str, Any]) -> ViT:
    """Sets the fields that the shapes of arrays tell, or the arguments of timm.

    Args:
        network: with its variants.
        arrays: path of a parameter of ours -> its array.
        said: arguments of timm.
    """
    if said.get("global_pool") in ("token", "avg"):
        network = network.clone(mean_pool=said["global_pool"] == "avg")
    if (registers := arrays.get("registers")) is not None and registers.ndim == 3:
        network = network.clone(registers=registers.shape[1])
    positions = arrays.get("position_embedding")
    if positions is None or positions.ndim != 3:
        return network
    for token_positions in (True, False):
        patches = positions.shape[1] - token_positions * network.num_tokens
        side = math.isqrt(max(0, patches))
        if side**2 == patches > 0:
            size = side * network.patch
            return network.clone(image_size=size, token_positions=token_positions)
    return network


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
    """Returns the layout of timm, which the original DeiT shares."""
    found = [
        conv("embedding", "patch_embed.proj"),
        _embeddings(network, "pos_embed", ("cls_token", "dist_token", "reg_token")),
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
        if network.layer_scale:
            scales = {"attention_scale": f"{theirs}.ls1.gamma", "mlp_scale": f"{theirs}.ls2.gamma"}
            found.append(arrays_as_they_are(ours, scales))
    norm = ("pooled_norm", "fc_norm") if network.norm_pooled else ("norm", "norm")
    found.append(layer_norm(*norm))
    return [*found, *_heads(network, "head", "head_dist")]


def transformers(
    network: ViT,
    trunk: str = "vit",
    heads: tuple[str, str] = ("classifier", "distillation_classifier"),
) -> list[Layer]:
    """Returns the layout of transformers, which projects queries, keys and values apart."""
    embeddings = f"{trunk}.embeddings"
    tokens = ("cls_token", "distillation_token", "register_tokens")
    found = [
        conv("embedding", f"{embeddings}.patch_embeddings.projection"),
        _embeddings(network, "position_embeddings", tokens, f"{embeddings}."),
    ]
    for ours, number in _blocks(network):
        theirs = f"{trunk}.encoder.layer.{number}"
        attention = f"{theirs}.attention"
        found += [
            layer_norm(f"{ours}/attention_norm", f"{theirs}.layernorm_before"),
            *(
                dense(f"{ours}/qkv", f"{attention}.attention.{part}")._replace(shares=3)
                for part in ("query", "key", "value")
            ),
            dense(f"{ours}/attention_out", f"{attention}.output.dense"),
            layer_norm(f"{ours}/mlp_norm", f"{theirs}.layernorm_after"),
            dense(f"{ours}/mlp_in", f"{theirs}.intermediate.dense"),
            dense(f"{ours}/mlp_out", f"{theirs}.output.dense"),
        ]
    found.append(layer_norm("norm", f"{trunk}.layernorm"))
    return [*found, *_heads(network, *heads)]


def deit(network: ViT) -> list[Layer]:
    """Returns the layout of a distilled DeiT of transformers."""
    heads = ("cls_classifier", "distillation_classifier")
    return transformers(network, "deit", heads)


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


def _embeddings(
    network: ViT, positions: str, tokens: tuple[str, str, str], prefix: str = ""
) -> Layer:
    """The positions, and those of the class, distilled and register tokens that there are."""
    sources = {"position_embedding": f"{prefix}{positions}"}
    there = (network.class_token, network.distilled, network.registers)
    ours = ("class_token", "distilled_token", "registers")
    for name, theirs, is_there in zip(ours, tokens, there, strict=True):
        if is_there:
            sources[name] = f"{prefix}{theirs}"
    return arrays_as_they_are("", sources)


def _heads(network: ViT, head: str, distilled: str) -> list[Layer]:
    second = [dense("distilled", distilled)] if network.distilled else []
    return [*second, dense("classifier", head)]


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
