"""Image classifiers: pure functions `apply(params, images) -> logits`, with normalisation."""

from cfx_jax.classifiers import efficientnet_lite
from cfx_jax.classifiers.alexnet import LAYERS, AlexNet
from cfx_jax.classifiers.base import (
    CHANNEL_ORDERS,
    INTERPOLATIONS,
    NORMALIZATIONS,
    Classifier,
    Normalization,
    NormalizedModule,
)
from cfx_jax.classifiers.convnext import ConvNeXt
from cfx_jax.classifiers.diagnosis import Finding
from cfx_jax.classifiers.efficientnet_lite import EfficientNetLite
from cfx_jax.classifiers.ensemble import average
from cfx_jax.classifiers.fast_convolution import with_fast_convolutions
from cfx_jax.classifiers.logits import (
    LOGIT_KINDS,
    class_count,
    log_odds,
    logit,
    logit_margin,
    predict,
    probabilities,
    resolve_rank,
)
from cfx_jax.classifiers.mnist_cnn import MnistCNN
from cfx_jax.classifiers.resnet import ResNet
from cfx_jax.classifiers.vgg import VGG, VGG16, VGG19
from cfx_jax.classifiers.vit import ViT

__all__ = [
    "CHANNEL_ORDERS",
    "INTERPOLATIONS",
    "LAYERS",
    "LOGIT_KINDS",
    "NORMALIZATIONS",
    "VGG",
    "VGG16",
    "VGG19",
    "AlexNet",
    "Classifier",
    "ConvNeXt",
    "EfficientNetLite",
    "Finding",
    "MnistCNN",
    "Normalization",
    "NormalizedModule",
    "ResNet",
    "ViT",
    "average",
    "class_count",
    "efficientnet_lite",
    "log_odds",
    "logit",
    "logit_margin",
    "predict",
    "probabilities",
    "resolve_rank",
    "with_fast_convolutions",
]
