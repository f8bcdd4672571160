"""Explains the 50,000 images of the ImageNet-1k validation set.

    python -m cfx_jax.main --config=configs/imagenet.py --workdir=DIR

Needs the TFDS dataset `imagenet2012`, prepared as array_record files; without it the command stops
at once and says how to prepare it. A run that was interrupted continues with the same command. To
try it on the first 64 images: --config.data.max_examples=64. For the published procedure:
--config.explain.mode=paper. Pictures are left out of the records (they would be 22 GB).
"""

from cfx_jax.config import BatchConfig, Config, DataConfig, ReportConfig


def get_config() -> Config:
    """Returns the config of a run over the validation set, both objectives."""
    return Config(
        data=DataConfig(source="tfds", name="imagenet2012", split="validation"),
        batch=BatchConfig(per_device_batch_size=16, unit_size=128),
        report=ReportConfig(save_images=False),
    )
