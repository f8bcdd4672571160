"""Other saliency methods on models with analytic answers, and properties of all methods."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.baselines import METHODS, attribute, unsupported_reason
from cfx_jax.baselines.gradients import find_last_maps
from cfx_jax.classifiers import NORMALIZATIONS, NormalizedModule
from cfx_jax.weights.architectures import ARCHITECTURES

KEY = jax.random.key(0)
SIZE = 14
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE, SIZE, 3)).astype(np.float32)
CONTROLS = {"random", "centre", "uniform"}
FOR_ANY_MODEL = [method for method in METHODS if method != "grad_cam"]


@pytest.fixture
def images():
    return jax.random.uniform(KEY, (3, SIZE, SIZE, 3))


def fill_black(params, images, mask, key):
    return jnp.zeros_like(images)


@pytest.fixture
def black():
    return cfx_jax.Generator(params=(), apply=fill_black, name="black")


def squares(params, images):
    """Two logits: 0 and the weighted sum of the squared pixels."""
    score = (params * jnp.square(images)).sum((1, 2, 3))
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


@pytest.fixture
def quadratic():
    return cfx_jax.Classifier(params=jnp.asarray(WEIGHTS), apply=squares)


def run(method, classifier, generator, images, targets=(1, 1, 1)):
    return attribute(method, KEY, classifier, generator, images, np.asarray(targets))


def test_attribute_gradients_of_a_linear_model(linear_classifier, black, images):
    model = linear_classifier(WEIGHTS)
    expected = {
        "gradient": np.abs(WEIGHTS).max(-1)[None].repeat(3, 0),
        "smooth_grad": np.abs(WEIGHTS).max(-1)[None].repeat(3, 0),
        "gradient_x_input": (WEIGHTS * np.asarray(images)).sum(-1),
        "integrated_gradients": (WEIGHTS * np.asarray(images)).sum(-1),
    }
    for method, maps in expected.items():
        found = run(method, model, black, images)
        np.testing.assert_allclose(found, maps, atol=1e-4, err_msg=method)


def test_attribute_gradients_of_a_quadratic_model(quadratic, black, images):
    pixels = np.asarray(images)
    slope = 2 * WEIGHTS * pixels
    found = {m: run(m, quadratic, black, images) for m in FOR_ANY_MODEL if "grad" in m}
    np.testing.assert_allclose(found["gradient"], np.abs(slope).max(-1), atol=1e-4)
    np.testing.assert_allclose(found["gradient_x_input"], (slope * pixels).sum(-1), atol=1e-4)
    # Half of that: the slope grows from zero along the way. It adds up to the logit.
    integrated = found["integrated_gradients"]
    np.testing.assert_allclose(integrated, (slope * pixels).sum(-1) / 2, atol=1e-4)
    logits = quadratic.apply(quadratic.params, images)[:, 1]
    np.testing.assert_allclose(integrated.sum((1, 2)), logits, rtol=1e-4)
    # The noise has mean zero, and this slope is linear in the pixels.
    assert np.abs(found["smooth_grad"] - found["gradient"]).max() < 0.6
    assert np.corrcoef(np.ravel(found["smooth_grad"]), np.ravel(found["gradient"]))[0, 1] > 0.9


class Network(nn.Module):
    """Two convolutions, the mean over all pixels, a linear readout: Grad-CAM in closed form."""

    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Conv(6, (3, 3), name="first")(images))
        maps = nn.Conv(4, (3, 3), strides=2, name="second")(hidden)
        return nn.Dense(3, name="head")(nn.relu(maps).mean((1, 2)))


def test_grad_cam_of_a_pooled_network(black, images):
    """The slope of the mean of a rectified map: its share of positive pixels, times the readout."""
    network = Network()
    params = network.init(KEY, images)
    classifier = cfx_jax.Classifier(params=params, apply=network.apply)
    found = run("grad_cam", classifier, black, images, [0, 2, 1])
    convolve = {
        name: nn.Conv(n, (3, 3), strides=s).apply
        for name, n, s in (("first", 6, 1), ("second", 4, 2))
    }
    weights = params["params"]
    hidden = nn.relu(convolve["first"]({"params": weights["first"]}, images))
    maps = np.asarray(convolve["second"]({"params": weights["second"]}, hidden))
    for index, target in enumerate([0, 2, 1]):
        share = (maps[index] > 0).mean((0, 1)) / np.prod(maps.shape[1:3])
        slope = share * np.asarray(weights["head"]["kernel"])[:, target]
        coarse = np.maximum((maps[index] * slope).sum(-1), 0)
        expected = jax.image.resize(coarse, (SIZE, SIZE), "linear")
        np.testing.assert_allclose(found[index], expected, atol=1e-6)
    assert np.ptp(found) > 0


def test_unsupported_reason_names_unsuitable_classifiers(linear_classifier):
    linear = linear_classifier(WEIGHTS)
    shape = (SIZE, SIZE, 3)
    found = {method: unsupported_reason(method, linear, shape) for method in METHODS}
    assert {method for method, reason in found.items() if reason} == {"grad_cam"}
    assert "no feature maps that a module of Flax Linen returns" in found["grad_cam"]


@pytest.mark.parametrize(
    ("name", "has_maps"), [("resnet18", True), ("convnext_tiny", True), ("vit_t16", False)]
)
def test_find_last_maps_finds_those_before_the_pooling(name, has_maps):
    architecture = ARCHITECTURES[name]
    module = architecture.module
    apply = NormalizedModule(module, NORMALIZATIONS["imagenet"])
    classifier = cfx_jax.Classifier(architecture.template(module), apply)
    for _ in range(2):
        reason = unsupported_reason("grad_cam", classifier, (224, 224, 3))
        assert bool(reason) != has_maps
    if has_maps:
        images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        assert find_last_maps(classifier, images)[1][1:3] == (7, 7)


def test_grad_cam_needs_feature_maps(linear_classifier, black, images):
    with pytest.raises(ValueError, match="no feature maps that a module of Flax Linen returns"):
        run("grad_cam", linear_classifier(WEIGHTS), black, images)


def test_occlusion_of_a_linear_model_sums_its_windows(linear_classifier, black, images):
    """The reference loops over all windows; at 14 pixels a window is 2 wide with 13 starts."""
    found = run("occlusion", linear_classifier(WEIGHTS), black, images)
    values = (WEIGHTS * np.asarray(images)).sum(-1)
    sums, counts = np.zeros((3, SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for top in range(SIZE - 1):
        for left in range(SIZE - 1):
            window = np.s_[..., top : top + 2, left : left + 2]
            sums[window] += values[window].sum((1, 2), keepdims=True)
            counts[window] += 1
    np.testing.assert_allclose(found, sums / counts, atol=1e-4)


def test_rise_finds_the_relevant_pixels(linear_classifier, black):
    weights = np.zeros((SIZE, SIZE, 1), np.float32)
    weights[2:6, 8:12] = 0.2
    maps = run("rise", linear_classifier(weights), black, jnp.ones((1, SIZE, SIZE, 1)), [1])[0]
    assert maps[2:6, 8:12].mean() > maps[8:, :6].max()
    row, column = np.unravel_index(np.argmax(maps), maps.shape)
    assert 0 <= row < 8, "the peak lies on the object, give or take a cell of the masks"
    assert 6 <= column < 14
    # Each pixel is kept half of the time: far from the object that is the mean probability.
    assert 0.5 < maps.mean() < 1.0


def test_controls_have_the_expected_maps(quadratic, black, images):
    centre = run("centre", quadratic, black, images)[0]
    assert np.unravel_index(np.argmax(centre[:7, :7]), (7, 7)) == (6, 6)
    np.testing.assert_allclose([centre[0, 0], centre[-1, 0]], 0.0, atol=1e-6)
    np.testing.assert_allclose(centre, centre[::-1, ::-1], atol=1e-6)
    assert np.ptp(run("uniform", quadratic, black, images)) == 0
    noise = run("random", quadratic, black, images)
    assert np.abs(np.corrcoef(noise.reshape(3, -1))[0, 1]) < 0.3
    assert 0.4 < noise.mean() < 0.6


@pytest.mark.parametrize("method", FOR_ANY_MODEL)
def test_attribute_depends_on_image_and_classifier(method, quadratic, black, images):
    found = run(method, quadratic, black, images)
    assert found.shape == (3, SIZE, SIZE)
    assert np.isfinite(found).all()
    order = np.asarray([2, 0, 2])
    again = run(method, quadratic, black, images[order])
    np.testing.assert_array_equal(again, found[order])
    if method not in CONTROLS:
        other = quadratic.replace(params=quadratic.params[::-1])
        difference = np.abs(run(method, other, black, images) - found)
        assert difference.max() > 1e-4, "the map is of the classifier"


def test_attribute_does_not_depend_on_the_batch(quadratic, black, images):
    """One method that draws random numbers stands for all: they share the mapping over a batch."""
    together = run("smooth_grad", quadratic, black, images)
    alone = run("smooth_grad", quadratic, black, images[2:], [1])
    np.testing.assert_allclose(alone[0], together[2], atol=1e-5)


def test_attribute_without_a_target_takes_the_predicted_class(random_classifier, fill_half, images):
    predicted = np.argmax(random_classifier.apply(random_classifier.params, images), axis=-1)
    found = attribute("gradient", KEY, random_classifier, fill_half, images)
    expected = attribute("gradient", KEY, random_classifier, fill_half, images, predicted)
    np.testing.assert_array_equal(found, expected)


def test_attribute_names_wrong_arguments(random_classifier, fill_half, images):
    with pytest.raises(ValueError, match="unknown method 'lime'; known are gradient, "):
        attribute("lime", KEY, random_classifier, fill_half, images)
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        attribute("gradient", KEY, random_classifier, fill_half, np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="targets"):
        attribute("gradient", KEY, random_classifier, fill_half, images, np.asarray([0, 9]))


@pytest.mark.parametrize("method", ["bbmp_ssr", "bbmp_sdr", "extremal"])
def test_attribute_learnt_masks_find_the_evidence(method, linear_classifier, black):
    """All evidence lies in the top left quarter."""
    weights = np.zeros((SIZE, SIZE, 3), np.float32)
    weights[:7, :7] = 0.1
    white = jnp.ones((1, SIZE, SIZE, 3))
    found = run(method, linear_classifier(weights), black, white, [1])[0]
    inside = found[:7, :7].mean()
    outside = np.concatenate([found[7:].ravel(), found[:7, 7:].ravel()])
    assert inside > np.quantile(outside, 0.95)
    assert inside > outside.mean() + 0.3
