"""What logits mean."""

import pytest

from cfx_jax import Classifier


def test_a_meaning_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="is 'sigmoids'; expected one of 'softmax', 'sigmoid'"):
        Classifier((), lambda params, images: images, logits="sigmoids")
