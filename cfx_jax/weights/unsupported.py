"""Describes weights of unsupported networks, from the names of their arrays."""

import re
from collections.abc import Iterable

USE_OWN_MODEL = (
    "use a model of your own: --config.classifier.name=FILE.py:FUNCTION (examples/linen_model.py, "
    "examples/torch_model.py)"
)

# Names of arrays from which the weights of a network are computed -> description and remedy.
_UNMERGED = {
    r"(^|\.)(lora_\w+|base_layer)\.": "adapters of PEFT: save what "
    "model.merge_and_unload() returns",
    r"_mask$": "pruned weights: call torch.nn.utils.prune.remove(module, 'weight') before saving",
    r"(^|\.)parametrizations\.": "parametrized weights: call "
    "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight') before saving",
    r"_g$": "weights under weight_norm: call torch.nn.utils.remove_weight_norm(module) before "
    "saving",
    r"_orig$": "weights under spectral_norm: call torch.nn.utils.remove_spectral_norm(module) "
    "before saving",
}

# Names of arrays of other networks, or descriptions of arrays with another shape -> the network.
_UNSUPPORTED = {
    r"\.se\.|\.se_module\.|\.attn\.(fc[12]|conv)\.": "a network with squeeze-and-excitation or "
    "another channel attention",
    r"\.grn\.": "a ConvNeXt V2, with its response normalisation",
    r"\.mlp\.(w12|w[123]|fc1_[gx]|gate_proj|weights_in)\b|\.mlp\.norm\.": "a ViT with SwiGLU or a "
    "norm in its MLPs",
    r"\.(q_norm|k_norm)\.": "a ViT that normalises queries and keys",
    r"(^|\.)(norm_pre|pre_layrnorm|ln_pre)\.": "a ViT with a norm before its blocks, as in CLIP",
    r"(^|\.)attn_pool\.": "a ViT that pools by attention, as in SigLIP",
    r"relative_position|\.q_bias$|(^|\.)rope\.": "a transformer with relative or rotary positions, "
    "such as BEiT or Swin",
    r"(^|\.)patch_embed\.(conv\d|backbone|proj\.\d)|patch_embed\.norm\.": "a ViT whose patches are "
    "embedded by a separate network",
    r"(^|\.)pre_logits[./]": "a head with a hidden layer, as for the classes of ImageNet-21k",
    r"(^|\.)(decoder|mask_token)": "a network pre-trained by masked image modelling, without a "
    "head",
    r"layer1\.0\.conv2\.weight \(\d+, \d+, 3, 3\) instead": "a ResNeXt or a wide ResNet",
    r"\.(mlp\.fc1|pwconv1)\.weight \(\d+, \d+, 1, 1\) instead": "a ConvNeXt whose MLPs are "
    "convolutions",
}


def describe_unsupported(differing: Iterable[str]) -> str:
    """Returns the kind of unsupported weights and a remedy, or "".

    Args:
        differing: names of arrays that are only in the file, and descriptions of other differences.
    """
    differing = list(differing)
    for pattern, description in _UNMERGED.items():
        if any(re.search(pattern, name) for name in differing):
            return f"these are {description}"
    for pattern, description in _UNSUPPORTED.items():
        if any(re.search(pattern, name) for name in differing):
            return f"these seem to be {description}, which is not supported: {USE_OWN_MODEL}"
    return ""
