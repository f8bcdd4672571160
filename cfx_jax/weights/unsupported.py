"""What arrays that no network of ours has are, told by their names."""

import re
from collections.abc import Iterable

OWN = (
    "use a model of your own: --config.classifier.name=FILE.py:FUNCTION (examples/linen_model.py, "
    "examples/torch_model.py)"
)

# Names of arrays that a network has while its weights are made of others -> what to do.
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

# Names that only another network has, or phrases of arrays that are missing or of another shape ->
# what that network is.
_OTHER = {
    r"\.se\.|\.se_module\.|\.attn\.(fc[12]|conv)\.": "a network with squeeze and excitation or "
    "another attention of channels",
    r"\.grn\.": "a ConvNeXt V2, with its normalisation of responses",
    r"\.mlp\.(w12|w[123]|fc1_[gx]|gate_proj|weights_in)\b|\.mlp\.norm\.": "a ViT with SwiGLU or a "
    "norm in its perceptrons",
    r"\.(q_norm|k_norm)\.": "a ViT that normalises queries and keys",
    r"(^|\.)(norm_pre|pre_layrnorm|ln_pre)\.": "a ViT with a norm before its blocks, as in CLIP",
    r"(^|\.)attn_pool\.": "a ViT that pools by attention, as in SigLIP",
    r"relative_position|\.q_bias$|(^|\.)rope\.": "a transformer with relative or rotary positions, "
    "such as BEiT or Swin",
    r"(^|\.)patch_embed\.(conv\d|backbone|proj\.\d)|patch_embed\.norm\.": "a ViT whose patches are "
    "embedded by a network of their own",
    r"(^|\.)pre_logits[./]": "a head with a hidden layer, as for the classes of ImageNet-21k",
    r"(^|\.)(decoder|mask_token)": "a network that was trained to fill masks, before it is given a "
    "head",
    r"layer1\.0\.conv2\.weight \(\d+, \d+, 3, 3\) instead": "a ResNeXt or a wide ResNet",
    r"\.(mlp\.fc1|pwconv1)\.weight \(\d+, \d+, 1, 1\) instead": "a ConvNeXt whose perceptrons are "
    "convolutions",
}


def describe_unsupported(differing: Iterable[str]) -> str:
    """Tells what the weights are, and what to do with them, or "".

    Args:
        differing: names of arrays that only the file has, and phrases about others.
    """
    differing = list(differing)
    for sign, what in _UNMERGED.items():
        if any(re.search(sign, name) for name in differing):
            return f"these are {what}"
    for sign, what in _OTHER.items():
        if any(re.search(sign, name) for name in differing):
            return f"these look like {what}, which is not read: {OWN}"
    return ""
