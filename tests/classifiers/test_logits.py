"""The kinds of logits."""

import pytest

from cfx_jax import Classifier


def test_classifier_refuses_an_unknown_meaning_of_logits():
    with pytest.raises(ValueError, match="is 'sigmoids'; expected one of 'softmax', 'sigmoid'"):
        Classifier((), lambda params, images: images, logits="sigmoids")
