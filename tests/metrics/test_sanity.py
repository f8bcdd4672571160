"""Sanity checks: methods that look at the classifier and methods that do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.baselines import attribute
from cfx_jax.classifiers import NORMALIZATIONS, NormalizedModule
from cfx_jax.classifiers.mnist_cnn import MnistCNN
from cfx_jax.metrics import sanity

KEY = jax.random.key(0)
LAYERS = ("filters", "readout")
TARGETS = np.asarray([0, 1, 2, 3, 4])


def method(name):
    generator = cfx_jax.load_generator("grey")
    return lambda classifier, images, targets: attribute(
        name, KEY, classifier, generator, images, targets
    )


@pytest.fixture(scope="module")
def digits_network():
    module = MnistCNN()
    params = module.init(KEY, jnp.zeros((1, 28, 28, 1)))["params"]
    return cfx_jax.Classifier(params, NormalizedModule(module, NORMALIZATIONS["none"]), channels=1)


def test_a_method_that_looks_at_the_weights_passes(random_classifier, images):
    cascade = sanity.cascade_agreement(
        KEY, method("gradient"), random_classifier, images, TARGETS, 2, LAYERS
    )
    assert cascade.num_layers == (1, 2)
    assert cascade.agreement.shape == (2, 5)
    assert cascade.agreement[-1].mean() < 0.5


@pytest.mark.parametrize("name", ["centre", "random"])
def test_a_method_that_does_not_fails(name, random_classifier, images):
    cascade = sanity.cascade_agreement(
        KEY, method(name), random_classifier, images, TARGETS, 2, LAYERS
    )
    np.testing.assert_allclose(cascade.agreement, 1.0, atol=1e-6)
    found = sanity.label_agreement(
        method(name), random_classifier, images, TARGETS, TARGETS[::-1] + np.array([0, 0, 1, 0, 0])
    )
    np.testing.assert_allclose(found, 1.0, atol=1e-6)


def test_an_explanation_of_random_weights_fails(random_classifier, images):
    """Whatever is asked, a method that explains shuffled weights is not about the classifier."""
    shuffled = sanity.shuffle_layers(KEY, random_classifier, LAYERS)

    def of_random_weights(classifier, images, targets):
        return method("gradient")(shuffled, images, targets)

    cascade = sanity.cascade_agreement(
        KEY, of_random_weights, random_classifier, images, TARGETS, 1, LAYERS
    )
    np.testing.assert_allclose(cascade.agreement, 1.0, atol=1e-6)
    ours = method("gradient")(random_classifier, images, TARGETS)
    theirs = of_random_weights(random_classifier, images, TARGETS)
    assert np.mean(sanity.rank_agreement(np.asarray(ours), np.asarray(theirs))) < 0.5


def test_a_method_that_answers_the_question_passes(random_classifier, images):
    others = (TARGETS + 1) % 5
    explain = functools.partial(sanity.label_agreement, method("gradient_x_input"))
    assert explain(random_classifier, images, TARGETS, others).mean() < 0.5
    with pytest.raises(ValueError, match="the target itself"):
        explain(random_classifier, images, TARGETS, TARGETS)


def test_layers_are_found_in_the_order_of_their_calls(digits_network):
    found = sanity.find_layers(digits_network, jnp.zeros((1, 28, 28, 1)))
    assert found == ("conv1", "conv2", "dense", "classifier")


def test_layers_of_a_packaged_network_are_found():
    classifier = cfx_jax.load_classifier("efficientnet_lite0")
    found = sanity.find_layers(classifier, jnp.zeros((1, 224, 224, 3)))
    arrays = jax.tree.leaves(classifier.params)
    assert 2 * len(found) == len(arrays), "each layer is a kernel and a bias"
    head = classifier.params
    for part in found[-1].split("/"):
        head = head[part]
    assert head["bias"].shape == (1000,)


def test_shuffling_keeps_the_values_and_the_other_layers(digits_network):
    shuffled = sanity.shuffle_layers(KEY, digits_network, ["conv2", "classifier/kernel"])
    for name, layer in digits_network.params.items():
        ours, theirs = np.asarray(layer["kernel"]), np.asarray(shuffled.params[name]["kernel"])
        assert (ours == theirs).all() == (name in ("conv1", "dense"))
        np.testing.assert_array_equal(np.sort(ours, axis=None), np.sort(theirs, axis=None))


def test_what_is_wrong_is_named(random_classifier, images):
    with pytest.raises(ValueError, match="no layers of Flax Linen"):
        sanity.find_layers(random_classifier, images)
    with pytest.raises(ValueError, match="no layers stem; expected some of"):
        sanity.shuffle_layers(KEY, random_classifier, ["stem"])
