"""Published ConvNeXt arrays: torchvision, timm, transformers and the original."""

import functools
from typing import NamedTuple

from cfx_jax.classifiers import ConvNeXt
from cfx_jax.weights.layout import Layer, conv, dense, layer_norm, unchanged


class _Names(NamedTuple):
    """Names of the layers in one library.

    `{s}` is the number of a stage, `{even}` and `{odd}` are `2 s` and `2 s + 1`, and `{b}` is the
    number of a block in its stage. Names of layers of a block are appended to the name of the
    block.
    """

    stem: str
    stem_norm: str
    downsample_norm: str
    downsample: str
    block: str
    depthwise: str
    norm: str
    mlp_in: str
    mlp_out: str
    scale: str
    head_norm: str
    head: str
    scale_axes: tuple[int, ...] = ()


def _layers(network: ConvNeXt, names: _Names) -> list[Layer]:
    layers = [conv("stem", names.stem), layer_norm("stem_norm", names.stem_norm)]
    for stage, size in enumerate(network.stage_sizes):
        stage_path = f"stage_{stage}"
        fill_in = functools.partial(str.format, s=stage, even=2 * stage, odd=2 * stage + 1)
        if stage > 0:
            layers += [
                layer_norm(f"{stage_path}_norm", fill_in(names.downsample_norm)),
                conv(f"{stage_path}_downsample", fill_in(names.downsample)),
            ]
        for block in range(size):
            path, name = f"{stage_path}_block_{block}", fill_in(names.block, b=block)
            layers += [
                conv(f"{path}/depthwise", f"{name}.{names.depthwise}"),
                layer_norm(f"{path}/norm", f"{name}.{names.norm}"),
                dense(f"{path}/mlp_in", f"{name}.{names.mlp_in}"),
                dense(f"{path}/mlp_out", f"{name}.{names.mlp_out}"),
                unchanged(path, {"scale": f"{name}.{names.scale}"})._replace(
                    to_param=lambda array: array.reshape(-1),
                    shape=lambda shape: (*shape, *names.scale_axes),
                ),
            ]
    return [*layers, layer_norm("norm", names.head_norm), dense("classifier", names.head)]


torchvision = functools.partial(
    _layers,
    names=_Names(
        stem="features.0.0",
        stem_norm="features.0.1",
        downsample_norm="features.{even}.0",
        downsample="features.{even}.1",
        block="features.{odd}.{b}",
        depthwise="block.0",
        norm="block.2",
        mlp_in="block.3",
        mlp_out="block.5",
        scale="layer_scale",
        head_norm="classifier.0",
        head="classifier.2",
        scale_axes=(1, 1),
    ),
)

timm = functools.partial(
    _layers,
    names=_Names(
        stem="stem.0",
        stem_norm="stem.1",
        downsample_norm="stages.{s}.downsample.0",
        downsample="stages.{s}.downsample.1",
        block="stages.{s}.blocks.{b}",
        depthwise="conv_dw",
        norm="norm",
        mlp_in="mlp.fc1",
        mlp_out="mlp.fc2",
        scale="gamma",
        head_norm="head.norm",
        head="head.fc",
    ),
)

original = functools.partial(
    _layers,
    names=_Names(
        stem="downsample_layers.0.0",
        stem_norm="downsample_layers.0.1",
        downsample_norm="downsample_layers.{s}.0",
        downsample="downsample_layers.{s}.1",
        block="stages.{s}.{b}",
        depthwise="dwconv",
        norm="norm",
        mlp_in="pwconv1",
        mlp_out="pwconv2",
        scale="gamma",
        head_norm="norm",
        head="head",
    ),
)

transformers = functools.partial(
    _layers,
    names=_Names(
        stem="convnext.embeddings.patch_embeddings",
        stem_norm="convnext.embeddings.layernorm",
        downsample_norm="convnext.encoder.stages.{s}.downsampling_layer.0",
        downsample="convnext.encoder.stages.{s}.downsampling_layer.1",
        block="convnext.encoder.stages.{s}.layers.{b}",
        depthwise="dwconv",
        norm="layernorm",
        mlp_in="pwconv1",
        mlp_out="pwconv2",
        scale="layer_scale_parameter",
        head_norm="convnext.layernorm",
        head="classifier",
    ),
)
