"""Small networks, loaded by name like the published ones, and compared with the originals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.weights.architectures import ARCHITECTURES


@pytest.fixture
def register(monkeypatch):
    """Makes a small network loadable by name, like one that is published; returns the name."""

    def add(name, module, like, image_size):
        known = ARCHITECTURES[like]._replace(module=module, image_size=image_size)
        monkeypatch.setitem(ARCHITECTURES, f"small_{name}", known)
        return f"small_{name}"

    return add


@pytest.fixture(scope="session")
def assert_as_original():
    """Compares logits, and the gradient of one of the first image at the pixels of a grid."""

    def relative_error(value, expected):
        return np.linalg.norm(value - expected) / np.linalg.norm(expected)

    def compare(golden, name, module, params, images, target, stride, of_gradient=1e-3):
        @jax.jit
        def evaluate(params, images):
            def of_target(images):
                logits = module.apply({"params": params}, images)
                return logits[0, target], logits

            return jax.grad(of_target, has_aux=True)(images)

        gradient, logits = evaluate(params, images)
        assert logits.dtype == jnp.float32
        assert relative_error(logits, golden[f"{name}_logits"]) < 1e-5
        sample = np.asarray(gradient[0, ::stride, ::stride])
        assert relative_error(sample, golden[f"{name}_gradient"]) < of_gradient
        norm = float(np.linalg.norm(gradient[0]))
        assert norm == pytest.approx(float(golden[f"{name}_gradient_norm"]), rel=of_gradient)
        assert not np.any(gradient[1])

    return compare
