r"""Compares learnt masks, with three in-fills, with all other methods on images that have boxes.

    python -m cfx_jax.evaluate --config=configs/evaluate_imagenet.py --workdir=DIR \
        --config.data.path=IMAGES

IMAGES is a folder whose manifest.csv has the columns `file`, `label` and `boxes`. On two cores an
image takes minutes: --config.data.max_examples=20 is a beginning. Stopped, it goes on with the same
command. Masks that are learnt already are measured with --records=DIR, once for each run.
"""

from cfx_jax.baselines import METHODS
from cfx_jax.config import BatchConfig, DataConfig, ReportConfig
from cfx_jax.evaluate import EvaluateConfig


def get_config() -> EvaluateConfig:
    """Returns the comparison, images stretched to a square as their boxes are."""
    return EvaluateConfig(
        data=DataConfig(source="folder", resize="stretch"),
        infills=("gated_unet", "local_mean", "blur"),
        baselines=tuple(METHODS),
        batch=BatchConfig(unit_size=4),
        report=ReportConfig(save_images=False),
    )
