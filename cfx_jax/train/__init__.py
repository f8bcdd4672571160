"""Trains in-filling generators and small classifiers."""

from cfx_jax.train.classifier import train_classifier
from cfx_jax.train.config import TrainClassifierConfig, TrainConfig
from cfx_jax.train.crops import Crops
from cfx_jax.train.loop import train
from cfx_jax.train.photographs import load_crops
from cfx_jax.train.quality import fill_images, frechet_distance, heldout_masks, measure_quality
from cfx_jax.train.step import DEVICE_AXIS, init_state, train_step

__all__ = [
    "DEVICE_AXIS",
    "Crops",
    "TrainClassifierConfig",
    "TrainConfig",
    "fill_images",
    "frechet_distance",
    "heldout_masks",
    "init_state",
    "load_crops",
    "measure_quality",
    "train",
    "train_classifier",
    "train_step",
]
