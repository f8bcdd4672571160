"""Arrays are laid out as parameters; each is used or named."""

import logging

import numpy as np
import pytest

from cfx_jax.weights.architectures import ARCHITECTURES, lay_out
from cfx_jax.weights.layout import published_names, published_shapes

LITE = ARCHITECTURES["efficientnet_lite0"]


@pytest.fixture(scope="module")
def published():
    """Arrays of zeros under the published names, with 7 classes."""
    module = LITE.module.clone(num_classes=7)
    layers = LITE.layouts[0].layers(module)
    shapes = published_shapes(layers, LITE.template(module))
    assert published_names(layers) == shapes.keys()
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_arrays_beside_the_network_are_named(published, caplog):
    wrapped = {f"state_dict.{name}": array for name, array in published.items()}
    with caplog.at_level(logging.WARNING, "cfx_jax"):
        module, _, _ = lay_out("efficientnet_lite0", wrapped)
        assert caplog.text == ""
        beside = {f"optimizer.state.{n}": np.zeros(1) for n in range(5)}
        lay_out("efficientnet_lite0", wrapped | beside)
    assert module.num_classes == 7
    (record,) = caplog.records
    assert record.getMessage() == (
        "5 arrays beside efficientnet_lite0 are left aside: optimizer.state.0, optimizer.state.1, "
        "optimizer.state.2, ..."
    )
