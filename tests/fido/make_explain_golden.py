"""Writes `explain_golden.npz`, the keep probabilities that `test_golden.py` expects.

python tests/fido/make_explain_golden.py

Only a change that is meant to change masks needs a new file; its commit message gives the reason.
"""

import hashlib
import os
import pathlib
import platform

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import jax.numpy as jnp
import numpy as np

import cfx_jax

PATH = pathlib.Path(__file__).parent / "explain_golden.npz"
# As `fast` was when the file was written.
_FAST = {
    "mode": "fast",
    "num_steps": 20,
    "num_samples": 4,
    "learning_rate": 0.2,
    "warm_start_steps": 0,
}
CASES = {
    "fast": _FAST,
    "paper": {"mode": "paper", "num_steps": 20},
    "bbmp": {"mode": "bbmp", "num_steps": 20},
    "blocks": _FAST | {"block_size": 5},
}


def machine():
    """Names what decides the last bits of a result: the compiler and the processor."""
    about = pathlib.Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    processor = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    digest = hashlib.sha256("".join(processor).encode()).hexdigest()[:16]
    return " ".join([jax.__version__, platform.machine(), digest])


def apply(params, images):
    """Three classes: patches, tanh, mean, linear."""
    patches = images.reshape(len(images), 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    hidden = jnp.tanh(patches.reshape(len(images), 16, 48) @ params["patch"])
    return 6.0 * hidden.mean(axis=1) @ params["head"]


def keep_probabilities():
    """Returns by case and objective the keep probabilities `[2, 8, 8]` of two small images."""
    rng = np.random.default_rng(0)
    params = {
        "patch": jnp.asarray(rng.normal(size=(48, 10)), jnp.float32),
        "head": jnp.asarray(rng.normal(size=(10, 3)), jnp.float32),
    }
    classifier = cfx_jax.Classifier(params=params, apply=apply)
    generator = cfx_jax.load_generator("local_mean")
    coarse = rng.uniform(size=(2, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images = jnp.asarray(np.clip(coarse + rng.normal(0, 0.05, coarse.shape), 0, 1), jnp.float32)
    found = {}
    for name, options in CASES.items():
        both = cfx_jax.explain_both(
            jax.random.key(0), classifier, generator, images, mask_size=8, **options
        )
        for objective, explanation in both.items():
            found[f"{name}_{objective}"] = np.asarray(explanation.keep_prob)
    return found


if __name__ == "__main__":
    np.savez(PATH, machine=machine(), **keep_probabilities())
