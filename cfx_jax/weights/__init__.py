"""Reads published weights, without running code in the files, and converts them to parameters."""

from cfx_jax.weights import class_names, contextual_attention
from cfx_jax.weights.architectures import ARCHITECTURES, Architecture, packaged_weights
from cfx_jax.weights.files import local_path, read_weights
from cfx_jax.weights.fitting import build_network
from cfx_jax.weights.formats import recognise
from cfx_jax.weights.inspection import describe
from cfx_jax.weights.params_file import encode_params, read_params
from cfx_jax.weights.preprocessing import Preprocessing

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Preprocessing",
    "build_network",
    "class_names",
    "contextual_attention",
    "describe",
    "encode_params",
    "local_path",
    "packaged_weights",
    "read_params",
    "read_weights",
    "recognise",
]
