"""Explains the 50,000 images of the ImageNet-1k validation set through a ResNet-50.

    python -m cfx_jax.main --config=configs/imagenet.py --workdir=DIR

Needs the TFDS dataset `imagenet2012`, prepared as array_record or tfrecord files; without it the
command stops at once and describes how to prepare it. The weights of torchvision's ResNet-50 come
from the Hugging Face hub (`pip install 'cfx_jax[hub]'`), or from a file:
--config.classifier.weights=resnet50-0676ba61.pth. DIR may be `gs://bucket/path`. A run that was
interrupted resumes with the same command; the scripts in launch/ start it on many machines.
--config.data.max_examples=64 explains the first 64 images only. The records do not contain the
pictures, which would take 22 GB. The networks compute in bfloat16 on accelerators and in float32 on
CPUs; to resume a run of the other kind of device, set --config.precision=float32 or bfloat16.
"""

from cfx_jax.config import BatchConfig, ClassifierConfig, Config, DataConfig, ReportConfig


def get_config() -> Config:
    """Returns the config of a run over the validation set, both objectives, mode `region`."""
    return Config(
        data=DataConfig(source="tfds", name="imagenet2012", split="validation"),
        classifier=ClassifierConfig(name="resnet50", weights="hf://timm/resnet50.tv_in1k"),
        batch=BatchConfig(unit_size=128),
        report=ReportConfig(save_images=False),
        precision="auto",
    )
