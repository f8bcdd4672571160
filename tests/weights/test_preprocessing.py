"""`config.json` and `preprocessor_config.json` next to weights are read."""

import json

import pytest

from cfx_jax.classifiers import NORMALIZATIONS, Normalization
from cfx_jax.weights.fitting import contradiction
from cfx_jax.weights.preprocessing import Preprocessing, read_preprocessing

IMAGENET = NORMALIZATIONS["imagenet"]
SYMMETRIC = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MEAN, STD = list(IMAGENET.mean), list(IMAGENET.std)
# As timm writes it for DeiT.
TIMM = {
    "architecture": "deit_small_patch16_224",
    "num_classes": 2,
    "label_names": ["n01", "n02"],
    "label_descriptions": {"n01": "goldfish", "n02": "hen"},
    "pretrained_cfg": {
        "tag": "fb_in1k",
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": MEAN,
        "std": STD,
    },
}
# As transformers writes them for a ViT.
TRANSFORMERS = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "image_size": 384,
    "id2label": {"0": "tench, Tinca tinca", "1": "goldfish"},
}
PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "rescale_factor": 0.00392156862745098,
    "resample": 2,
    "size": {"height": 384, "width": 384},
}
CONVNEXT = PROCESSOR | {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}


TIMM_NAME = {"architecture": "resnet18"}


@pytest.fixture
def preprocessing(tmp_path):
    """Writes one or both config files, and reads them."""

    def read(config=None, preprocessor=None):
        for name, content in (("config", config), ("preprocessor_config", preprocessor)):
            if content is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return read_preprocessing(tmp_path)

    return read


def test_preprocessing_from_timm_is_complete(preprocessing):
    assert preprocessing(TIMM) == Preprocessing(
        "deit_small_patch16_224",
        IMAGENET,
        (224, 224),
        ("goldfish", "hen"),
        0.9,
        "bicubic",
        {"in_chans": 3},
    )


def test_preprocessing_describe_lists_known_values(preprocessing):
    assert Preprocessing().describe() == ""
    assert preprocessing(TIMM).describe() == (
        "network deit_small_patch16_224; images of 224 x 224; mean (0.485, 0.456, 0.406), "
        "std (0.229, 0.224, 0.225); crop 0.9; bicubic resizing"
    )
    assert Preprocessing(crop=1.0).describe() == "crop 1.0"


def test_preprocessing_reads_older_flat_timm_configs(preprocessing):
    flat = TIMM["pretrained_cfg"] | {"architecture": "resnet18"}
    assert preprocessing(flat) == Preprocessing(
        "resnet18", IMAGENET, (224, 224), (), 0.9, "bicubic", {"in_chans": 3}
    )


@pytest.mark.parametrize(
    ("changes", "arguments"),
    [
        ({}, {"in_chans": 3}),
        ({"in_chans": 1, "global_pool": "max"}, {"in_chans": 1, "global_pool": "max"}),
        ({"global_pool": None, "model_args": [3]}, {"in_chans": 3}),
        ({"model_args": {"in_chans": 4, "depth": None}}, {"in_chans": 4}),
        (
            {"output_stride": 8, "act_layer": "silu", "num_features": 512},
            {"in_chans": 3, "output_stride": 8, "act_layer": "silu"},
        ),
        ({"architecture": {"depth": 18}, "global_pool": "max"}, {}),
    ],
)
def test_preprocessing_reads_timm_model_arguments(preprocessing, changes, arguments):
    assert preprocessing(TIMM | changes).arguments == arguments


@pytest.mark.parametrize(
    ("processor", "crop"),
    [
        ({"do_center_crop": True, "size": {"shortest_edge": 256}, "crop_size": 224}, 0.875),
        ({"do_center_crop": True, "size": 320, "crop_size": {"height": 288, "width": 288}}, 0.9),
        ({"do_center_crop": False, "size": {"shortest_edge": 256}, "crop_size": 224}, None),
        ({"size": {"height": 224, "width": 224}}, None),
        ({"do_center_crop": True, "size": 0, "crop_size": 224}, None),
        ({"do_center_crop": True, "size": 224, "crop_size": 256}, None),
    ],
)
def test_preprocessing_reads_the_crop_size_of_transformers(preprocessing, processor, crop):
    assert preprocessing({}, processor).crop == crop


@pytest.mark.parametrize(
    ("config", "processor", "message"),
    [
        (TIMM_NAME | {"crop_pct": "0.9"}, {}, "ignoring crop '0.9'"),
        (TIMM_NAME | {"crop_pct": 1.2}, {}, "ignoring crop 1.2"),
        (TIMM_NAME | {"interpolation": "random"}, {}, "ignoring interpolation 'random'"),
        ({}, {"resample": 9}, "ignoring interpolation 9"),
        ({}, PROCESSOR | {"rescale_factor": None}, "ignoring rescale_factor None"),
        ({}, PROCESSOR | {"rescale_factor": "1/255"}, "ignoring rescale_factor '1/255'"),
        ({}, PROCESSOR | {"rescale_factor": 0}, "ignoring rescale_factor 0"),
        ({}, {"do_flip_channel_order": True}, "set classifier.channel_order=bgr"),
    ],
)
def test_preprocessing_reports_unsupported_values_and_ignores_them(
    preprocessing, config, processor, message, caplog
):
    found = preprocessing(config, processor)
    assert message in caplog.text
    assert (found.crop, found.normalization) == (None, None)


def test_preprocessing_from_transformers_adds_what_arrays_lack(preprocessing):
    given = {"hidden_act": "relu", "layer_norm_eps": 0.1, "num_attention_heads": 6}
    assert preprocessing(TRANSFORMERS | given).arguments == given
    assert preprocessing(given).arguments == {}
    for name, value in given.items():
        found = contradiction(preprocessing(TRANSFORMERS | {name: value}), "vit_t16")
        assert found == f"their network has {name} {value!r}"
    usual = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 3}
    assert contradiction(preprocessing(TRANSFORMERS | usual), "vit_t16") == ""


def test_preprocessing_reads_both_files_of_transformers(preprocessing):
    assert preprocessing(TRANSFORMERS, PROCESSOR) == Preprocessing(
        "", SYMMETRIC, (384, 384), ("tench, Tinca tinca", "goldfish"), None, "bilinear"
    )


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (224, 224)),
        ({"size": 192}, (192, 192)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 200, "width": 160}}, (200, 160)),
        ({"size": 256, "crop_size": 224, "do_center_crop": True}, (224, 224)),
        ({"size": 256, "crop_size": 224, "do_center_crop": False}, (256, 256)),
        ({"size": "large"}, (224, 224)),
    ],
)
def test_preprocessing_takes_the_size_from_the_image_processor(preprocessing, changes, size):
    found = preprocessing({"image_size": 224}, CONVNEXT | changes)
    assert found.image_size == size
    assert (found.crop, found.interpolation) == (0.875, "bicubic")


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({}, 0.5, 0.5),
        ({"do_normalize": False}, 0.0, 1.0),
        ({"rescale_factor": 2 / 255}, 0.25, 0.25),
        ({"do_rescale": False}, 0.5 / 255, 0.5 / 255),
        ({"image_mean": 0.25, "image_std": 0.125}, 0.25, 0.125),
    ],
)
def test_preprocessing_normalization_is_for_images_in_0_to_1(preprocessing, changes, mean, std):
    found = preprocessing(None, PROCESSOR | changes).normalization
    assert found.mean == pytest.approx((mean,) * len(found.mean))
    assert found.std == pytest.approx((std,) * len(found.std))


@pytest.mark.parametrize(
    "config",
    [
        None, {}, [], 3, "text", {"lr": 0.1, "std": 0.02, "architecture": {"depth": 18}},
        {"pretrained_cfg": None}, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
        {"image_size": "large", "crop_pct": True, "interpolation": 3}, {"input_size": [3]},
        {"image_size": [0, 3]}, {"crop_pct": -1.0},
    ],
)  # fmt: skip
def test_preprocessing_of_unrelated_files_is_empty(preprocessing, config, caplog):
    assert preprocessing(config) == Preprocessing()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mean": "imagenet", "std": "imagenet"}, "mean and std imagenet and imagenet"),
        ({"mean": MEAN, "std": STD[:2]}, "ignoring mean and std"),
        ({"mean": [123.7], "std": [58.4]}, "of other images than in [0, 1]"),
        ({"crop_mode": "squash"}, "ignoring crop_mode 'squash' (for 'squash', set data.resize="),
        ({"problem_type": "multi_label_classification"}, "set classifier.logits=sigmoid"),
        ({"mean": MEAN, "std": [1, 1, 0]}, "ignoring mean and std"),
        ({"mean": [float("nan")], "std": [1]}, "ignoring mean and std"),
        ({"label_names": ["a", 3]}, "ignoring the class names"),
        ({"id2label": {"0": "a", "7": "b"}}, "ignoring the class names"),
    ],
)
def test_preprocessing_names_and_ignores_invalid_values(preprocessing, config, message, caplog):
    assert preprocessing({"architecture": "net"} | config) == Preprocessing("net")
    assert message in caplog.text


def test_read_preprocessing_names_and_ignores_a_damaged_file(tmp_path, caplog):
    (tmp_path / "config.json").write_text("{")
    assert read_preprocessing(tmp_path) == Preprocessing()
    assert "config.json is not read: Expecting property name" in caplog.text


def test_preprocessing_ignores_a_config_of_another_kind(preprocessing, caplog):
    config = {"lr": 0.1, "mean": 0.3, "std": 0.1, "image_size": 64, "crop_pct": 0.5}
    assert preprocessing(config | {"interpolation": "nearest"}) == Preprocessing()
    assert not caplog.text
