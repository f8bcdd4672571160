r"""Compares learnt masks with three in-fills, and all baselines, on images with bounding boxes.

    python -m cfx_jax.evaluate --config=configs/evaluate_imagenet.py --workdir=DIR \
        --config.data.path=IMAGES

IMAGES is a folder whose manifest.csv has the columns `file`, `label` and `boxes`. An image takes
minutes on two cores; --config.data.max_examples=20 evaluates the first 20. After an interruption,
the same command resumes the evaluation. --records=DIR evaluates the masks of a finished run; it can
be repeated for several runs.
"""

from cfx_jax.baselines import METHODS
from cfx_jax.config import BatchConfig, DataConfig, ReportConfig
from cfx_jax.evaluate import EvaluateConfig


def get_config() -> EvaluateConfig:
    """Returns the config of the comparison; images are stretched to a square, like their boxes."""
    return EvaluateConfig(
        data=DataConfig(source="folder", resize="stretch"),
        infills=("gated_unet", "local_mean", "blur"),
        baselines=tuple(METHODS),
        batch=BatchConfig(unit_size=4),
        report=ReportConfig(save_images=False),
    )
