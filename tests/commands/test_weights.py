"""The command that inspects a file of weights."""

import subprocess
import sys

import pytest

import cfx_jax
from cfx_jax.weights.inspection import describe


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "cfx_jax.weights", *arguments], capture_output=True, text=True
    )


def test_weights_command_prints_the_description():
    path = f"{cfx_jax.__path__[0]}/weights/vae_digits.safetensors"
    done = run("inspect", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == describe(path) + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "none.npz"], "error: [Errno 2] No such file or directory: 'none.npz'"),
        (["inspect"], "the following arguments are required: file"),
    ],
)
def test_weights_command_user_error_exits_with_2(arguments, message):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
