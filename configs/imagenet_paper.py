"""Explains the ImageNet-1k validation set with the published procedure.

    python -m cfx_jax.main --config=configs/imagenet_paper.py --workdir=DIR \
        --config.generator.weights=FILE

Like configs/imagenet.py, but with 300 steps of 8 masks, lambda 1e-3 and the contextual attention
generator. It needs seven times the network evaluations of the default. FILE contains the weights of
the generator, in the published PyTorch layout or trained by configs/train_contextual_attention.py.
"""

from cfx_jax.config import (
    BatchConfig,
    ClassifierConfig,
    Config,
    DataConfig,
    ExplainConfig,
    GeneratorConfig,
    ReportConfig,
)


def get_config() -> Config:
    """Returns the config of a run over the validation set, both objectives, mode `paper`."""
    return Config(
        data=DataConfig(source="tfds", name="imagenet2012", split="validation"),
        classifier=ClassifierConfig(name="resnet50", weights="hf://timm/resnet50.tv_in1k"),
        generator=GeneratorConfig(name="contextual_attention"),
        explain=ExplainConfig(mode="paper"),
        batch=BatchConfig(unit_size=128),
        report=ReportConfig(save_images=False),
    )
