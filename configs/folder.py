"""Explains a folder of your own images.

    python -m cfx_jax.main --config=configs/folder.py --workdir=DIR --config.data.path=IMAGES

IMAGES is searched for pictures, sub-folders included. Without labels the predicted class is
explained. Labels come from a manifest.csv with the columns `file` and `label`, or from sub-folders
that are classes: --config.data.class_folders. A classifier of your own:
--config.classifier.name=resnet50 --config.classifier.weights=FILE.
"""

from cfx_jax.config import BatchConfig, Config, DataConfig


def get_config() -> Config:
    """Returns the config of a run over a folder, with pictures in the records and the gallery."""
    return Config(data=DataConfig(source="folder"), batch=BatchConfig(unit_size=16))
