"""Converts published weights of the contextual attention network to parameters.

The layout is that of the PyTorch port, generative-inpainting-pytorch: 84 arrays with 3 601 542
numbers. Every layer has a `.conv.weight` `[out, in, k, k]` and a `.conv.bias` `[out]`, float32:

    coarse_generator.              fine_generator.
    name              out  in  k   name                out  in  k
    conv1              32   5  5   conv1, pmconv1       32   5  5
    conv2_downsample   64  32  3   conv2_downsample     32  32  3   also pmconv2_downsample
    conv3              64  64  3   conv3, pmconv3       64  32  3
    conv4_downsample  128  64  3   conv4_downsample     64  64  3
                                   pmconv4_downsample  128  64  3
    conv5             128 128  3   conv5               128  64  3
                                   pmconv5             128 128  3
    conv6             128 128  3   conv6, pmconv6      128 128  3
    conv7_atrous      128 128  3   conv7_atrous        128 128  3
    conv8_atrous      128 128  3   conv8_atrous        128 128  3
    conv9_atrous      128 128  3   conv9_atrous        128 128  3
    conv10_atrous     128 128  3   conv10_atrous       128 128  3
                                   pmconv9, pmconv10   128 128  3
    conv11            128 128  3   allconv11           128 256  3
    conv12            128 128  3   allconv12           128 128  3
    conv13             64 128  3   allconv13            64 128  3
    conv14             64  64  3   allconv14            64  64  3
    conv15             32  64  3   allconv15            32  64  3
    conv16             16  32  3   allconv16            16  32  3
    conv17              3  16  3   allconv17             3  16  3

Weights converted from TensorFlow are loaded into a module that contains this network as its field
`netG`, so their names may start with `netG.`. This is not verified, because these weights were not
available.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cfx_jax.generators import contextual_attention
from cfx_jax.weights.layout import check_arrays

_PREFIX = "netG."
_PUBLISHED = {"kernel": "weight", "bias": "bias"}


def params_from_arrays(arrays: Mapping[str, np.ndarray]) -> dict:
    """Converts published arrays to parameters of `ContextualAttentionNet`.

    Args:
        arrays: arrays of the published checkpoint by name, for example
            `coarse_generator.conv1.conv.weight`; a common prefix `netG.` is dropped.

    Returns:
        Nested dict of float32 arrays for `contextual_attention.apply`.

    Raises:
        ValueError: arrays are missing, unexpected or of another shape; the message names them.
    """
    if all(name.startswith(_PREFIX) for name in arrays):
        arrays = {name.removeprefix(_PREFIX): array for name, array in arrays.items()}
    expected = jax.eval_shape(contextual_attention.init, jax.random.key(0))
    # Kernels are square, so `[k, k, in, out]` in reverse is the published `[out, in, k, k]`.
    shapes = {_name(path): leaf.shape[::-1] for path, leaf in jax.tree.leaves_with_path(expected)}
    try:
        check_arrays(arrays, shapes)
    except ValueError as error:
        raise ValueError(
            "not the weights of the contextual attention network in the layout of "
            f"generative-inpainting-pytorch: {error}"
        ) from error
    return jax.tree.map_with_path(lambda path, _: _transpose(arrays[_name(path)]), expected)


def _name(path: Sequence[Any]) -> str:
    """Returns `a.conv1.conv.weight` for the path of `["a"]["conv1"]["conv"]["kernel"]`."""
    names = [entry.key for entry in path]
    return ".".join([*names[:-1], _PUBLISHED[names[-1]]])


def _transpose(array: np.ndarray) -> np.ndarray:
    """Returns a kernel `[out, in, k, k]` as `[k, k, in, out]`, or a bias unchanged."""
    axes = (2, 3, 1, 0) if array.ndim == 4 else (0,)
    return np.ascontiguousarray(np.transpose(array, axes), np.float32)
