"""Explains the 50,000 images of the ImageNet-1k validation set through a ResNet-50.

    python -m cfx_jax.main --config=configs/imagenet.py --workdir=DIR

Needs the TFDS dataset `imagenet2012`, prepared as array_record or tfrecord files; without it the
command stops at once and says how to prepare it. The weights of torchvision's ResNet-50 come from
the Hugging Face hub (`pip install 'cfx_jax[hub]'`), or from a file:
--config.classifier.weights=resnet50-0676ba61.pth. DIR may be `gs://bucket/path`. A run that was
interrupted continues with the same command; launch/ starts it on many machines. To try it on the
first 64 images: --config.data.max_examples=64. Pictures are left out of the records (they would be
22 GB). On accelerators the networks compute in bfloat16, on CPU in float32; a run that was begun in
the other goes on with --config.precision=float32.
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
