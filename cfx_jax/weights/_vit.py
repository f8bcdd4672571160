"""Published Vision Transformer arrays: torchvision, timm, transformers and the JAX original."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cfx_jax.classifiers import ViT
from cfx_jax.weights.layout import Layer, conv, dense, layer_norm, unchanged

VARIANTS = (
    {"layer_scale": True},
    {"norm_pooled": True, "mean_pool": True},
    {"class_token": False, "mean_pool": True},
    {"distilled": True},
    {"registers": 4},
)
"""Alternative fields, which follow from the names of the arrays."""


# Side of the images that published networks are fine-tuned with.
_FINE_TUNED_SIZE = 384


def infer_fields(
    network: ViT, arrays: Mapping[str, np.ndarray], arguments: Mapping[str, Any]
) -> ViT:
    """Sets the fields that follow from the shapes of arrays or from the arguments of timm.

    Args:
        network: network with its variant fields.
        arrays: arrays by the path of the parameter in our network.
        arguments: arguments of timm.

    Returns:
        The network with these fields.
    """
    if arguments.get("global_pool") in ("token", "avg"):
        network = network.clone(mean_pool=arguments["global_pool"] == "avg")
    if (registers := arrays.get("registers")) is not None and registers.ndim == 3:
        network = network.clone(registers=registers.shape[1])
    positions = arrays.get("position_embedding")
    if positions is None or positions.ndim != 3:
        return network
    counts = {
        has: positions.shape[1] - has * network.num_tokens
        for has in _token_positions(network, arguments)
    }
    height, width = _stated_grid(network, arguments)
    for token_positions, patches in counts.items():
        if height * width == patches > 0 and height != width:
            sides = height * network.patch, width * network.patch
            return network.clone(image_size=sides, token_positions=token_positions)
    for token_positions, patches in counts.items():
        side = math.isqrt(max(0, patches))
        if side**2 == patches > 0:
            size = side * network.patch
            return network.clone(image_size=size, token_positions=token_positions)
    return network


def find_ambiguity(
    network: ViT, params: Mapping[str, Any], arguments: Mapping[str, Any], published_size: int
) -> str:
    """Returns the reason why position embeddings do not determine the network, or "".

    n^2 embeddings may be those of n x n patches, with none for the other tokens, or those of a
    rectangle of patches and the other tokens. With one class token, (n - 1) x (n + 1) patches
    always fit.

    Args:
        network: network with its inferred fields.
        params: parameters of the network.
        arguments: arguments of timm.
        published_size: side of the images that the network is usually trained with.
    """
    if network.token_positions or not network.num_tokens:
        return ""
    side, _ = network.grid
    is_stated = arguments.get("no_embed_class") or _stated_grid(network, arguments) == network.grid
    # timm gives registers no position embeddings; other tokens without them are rare.
    if is_stated or network.registers or network.image_size in (published_size, _FINE_TUNED_SIZE):
        return ""
    count, patch = params["position_embedding"].shape[1], network.patch
    return (
        f"{count} position embeddings are those of {side} x {side} patches without the class "
        f"token, or of the class token and {count - network.num_tokens} patches of a rectangle; "
        "expected a config.json next to the weights that decides, with "
        '{"architecture": NAME_IN_TIMM, "input_size": [3, HEIGHT, WIDTH]}, where the square has '
        f"{side * patch} x {side * patch} pixels"
    )


def _token_positions(network: ViT, arguments: Mapping[str, Any]) -> tuple[bool, ...]:
    """Returns whether the tokens have position embeddings: the possible answers, likelier first."""
    if not network.num_tokens:
        return (True,)
    stated = arguments.get("no_embed_class")
    return (True, False) if stated is None else (not stated,)


def _stated_grid(network: ViT, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the rows and columns of patches of the stated image size; (0, 0) if it is unknown."""
    size = arguments.get("img_size")
    sides: list[Any] = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or any(type(side) is not int or side % network.patch for side in sides):
        return 0, 0
    return sides[0] // network.patch, sides[1] // network.patch


def torchvision(network: ViT, mlp: tuple[str, str] = ("0", "3")) -> list[Layer]:
    """Returns the layout of torchvision; `mlp` are the names of the two MLP layers."""
    layers = [
        conv("embedding", "conv_proj"),
        unchanged(
            "", {"class_token": "class_token", "position_embedding": "encoder.pos_embedding"}
        ),
    ]
    for path, number in _blocks(network):
        name = f"encoder.layers.encoder_layer_{number}"
        fused = f"{name}.self_attention.in_proj"
        qkv = dense(f"{path}/qkv", fused)
        layers += [
            layer_norm(f"{path}/attention_norm", f"{name}.ln_1"),
            qkv._replace(sources={"kernel": f"{fused}_weight", "bias": f"{fused}_bias"}),
            dense(f"{path}/attention_out", f"{name}.self_attention.out_proj"),
            layer_norm(f"{path}/mlp_norm", f"{name}.ln_2"),
            dense(f"{path}/mlp_in", f"{name}.mlp.{mlp[0]}"),
            dense(f"{path}/mlp_out", f"{name}.mlp.{mlp[1]}"),
        ]
    return [*layers, layer_norm("norm", "encoder.ln"), dense("classifier", "heads.head")]


# Layout of the weights that torchvision offers for download; it renames their arrays when loading.
torchvision_legacy = functools.partial(torchvision, mlp=("linear_1", "linear_2"))


def timm(network: ViT) -> list[Layer]:
    """Returns the layout of timm, which the original DeiT shares."""
    layers = [
        conv("embedding", "patch_embed.proj"),
        _embeddings(network, "pos_embed", ("cls_token", "dist_token", "reg_token")),
    ]
    for path, number in _blocks(network):
        name = f"blocks.{number}"
        layers += [
            layer_norm(f"{path}/attention_norm", f"{name}.norm1"),
            dense(f"{path}/qkv", f"{name}.attn.qkv"),
            dense(f"{path}/attention_out", f"{name}.attn.proj"),
            layer_norm(f"{path}/mlp_norm", f"{name}.norm2"),
            dense(f"{path}/mlp_in", f"{name}.mlp.fc1"),
            dense(f"{path}/mlp_out", f"{name}.mlp.fc2"),
        ]
        if network.layer_scale:
            scales = {"attention_scale": f"{name}.ls1.gamma", "mlp_scale": f"{name}.ls2.gamma"}
            layers.append(unchanged(path, scales))
    norm = ("pooled_norm", "fc_norm") if network.norm_pooled else ("norm", "norm")
    layers.append(layer_norm(*norm))
    return [*layers, *_heads(network, "head", "head_dist")]


def transformers(
    network: ViT,
    trunk: str = "vit",
    heads: tuple[str, str] = ("classifier", "distillation_classifier"),
) -> list[Layer]:
    """Returns the layout of transformers, with separate projections of queries, keys and values."""
    embeddings = f"{trunk}.embeddings"
    tokens = ("cls_token", "distillation_token", "register_tokens")
    layers = [
        conv("embedding", f"{embeddings}.patch_embeddings.projection"),
        _embeddings(network, "position_embeddings", tokens, f"{embeddings}."),
    ]
    for path, number in _blocks(network):
        name = f"{trunk}.encoder.layer.{number}"
        attention = f"{name}.attention"
        layers += [
            layer_norm(f"{path}/attention_norm", f"{name}.layernorm_before"),
            *(
                dense(f"{path}/qkv", f"{attention}.attention.{part}")._replace(shares=3)
                for part in ("query", "key", "value")
            ),
            dense(f"{path}/attention_out", f"{attention}.output.dense"),
            layer_norm(f"{path}/mlp_norm", f"{name}.layernorm_after"),
            dense(f"{path}/mlp_in", f"{name}.intermediate.dense"),
            dense(f"{path}/mlp_out", f"{name}.output.dense"),
        ]
    layers.append(layer_norm("norm", f"{trunk}.layernorm"))
    return [*layers, *_heads(network, *heads)]


def deit(network: ViT) -> list[Layer]:
    """Returns the layout of a distilled DeiT of transformers."""
    heads = ("cls_classifier", "distillation_classifier")
    return transformers(network, "deit", heads)


def npz(network: ViT) -> list[Layer]:
    """Returns the layout of the JAX original, whose attention arrays have an axis for the heads.

    Files with a `pre_logits` layer, for the classes of ImageNet-21k, belong to another network.
    """
    positions = "Transformer/posembed_input/pos_embedding"
    layers = [
        _unchanged_layer("embedding", "embedding"),
        unchanged("", {"class_token": "cls", "position_embedding": positions}),
    ]
    for path, number in _blocks(network):
        name = f"Transformer/encoderblock_{number}"
        attention = f"{name}/MultiHeadDotProductAttention_1"
        layers += [
            _unchanged_layer(f"{path}/attention_norm", f"{name}/LayerNorm_0", "scale"),
            *(
                _from_heads(f"{path}/qkv", f"{attention}/{part}", network.heads)
                for part in ("query", "key", "value")
            ),
            _to_heads(f"{path}/attention_out", f"{attention}/out", network.heads),
            _unchanged_layer(f"{path}/mlp_norm", f"{name}/LayerNorm_2", "scale"),
            _unchanged_layer(f"{path}/mlp_in", f"{name}/MlpBlock_3/Dense_0"),
            _unchanged_layer(f"{path}/mlp_out", f"{name}/MlpBlock_3/Dense_1"),
        ]
    norm = _unchanged_layer("norm", "Transformer/encoder_norm", "scale")
    return [*layers, norm, _unchanged_layer("classifier", "head")]


def _embeddings(
    network: ViT, positions: str, tokens: tuple[str, str, str], prefix: str = ""
) -> Layer:
    """Returns the layer of the position embeddings and of the tokens that the network has."""
    sources = {"position_embedding": f"{prefix}{positions}"}
    counts = (network.class_token, network.distilled, network.registers)
    parameters = ("class_token", "distilled_token", "registers")
    for parameter, token, count in zip(parameters, tokens, counts, strict=True):
        if count:
            sources[parameter] = f"{prefix}{token}"
    return unchanged("", sources)


def _heads(network: ViT, head: str, distilled: str) -> list[Layer]:
    second = [dense("distilled", distilled)] if network.distilled else []
    return [*second, dense("classifier", head)]


def _blocks(network: ViT) -> Iterator[tuple[str, int]]:
    return ((f"block_{number}", number) for number in range(network.depth))


def _unchanged_layer(path: str, name: str, weight: str = "kernel") -> Layer:
    return unchanged(path, {part: f"{name}/{part}" for part in (weight, "bias")})


def _from_heads(path: str, name: str, heads: int) -> Layer:
    """Returns a third of a dense layer, published as `[dim, heads, width]` and `[heads, width]`."""
    return _unchanged_layer(path, name)._replace(
        to_param=lambda array: array.reshape(*array.shape[:-2], -1),
        shape=lambda shape: (*shape[:-1], heads, shape[-1] // heads),
        shares=3,
    )


def _to_heads(path: str, name: str, heads: int) -> Layer:
    """Returns a dense layer, published as `[heads, width, dim]` and bias `[dim]`."""

    def shape(param: tuple[int, ...]) -> tuple[int, ...]:
        return (heads, param[0] // heads, param[1]) if len(param) == 2 else param

    def to_param(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array

    return _unchanged_layer(path, name)._replace(to_param=to_param, shape=shape)
