"""Explains a folder of your own images.

    python -m cfx_jax.main --config=configs/folder.py --workdir=DIR --config.data.path=IMAGES

IMAGES is searched for pictures, including its sub-folders. Without labels, the predicted class is
explained. Labels are read from a manifest.csv with the columns `file` and `label`, or from
sub-folders that are classes: --config.data.class_folders. To use your own weights:
--config.classifier.name=resnet50 --config.classifier.weights=FILE.
"""

from cfx_jax.config import BatchConfig, Config, DataConfig


def get_config() -> Config:
    """Returns the config of a run over a folder; its records and gallery contain the pictures."""
    return Config(data=DataConfig(source="folder"), batch=BatchConfig(unit_size=16))
