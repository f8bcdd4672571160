"""Commands in faulty environments: an error of one line, or the same numbers."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cfx_jax.records import RecordReader

TRAIN = ["cfx_jax.train", "--config=train_gated_unet"]
INFILL = ["cfx_jax.infill_folder", "--images=.", "--masks=.", "--output=out"]


@pytest.mark.parametrize(
    ("command", "environment", "message"),
    [
        (["cfx_jax.main"], {"JAX_PLATFORMS": "cuda"}, "no device for JAX_PLATFORMS=cuda (JAX has "),
        (["cfx_jax.main"], {"JAX_PLATFORMS": "bogus"}, "JAX_PLATFORMS=bogus (Unable to init"),
        (TRAIN, {"JAX_PLATFORMS": "bogus"}, "leave it unset to use any device, or install "),
        (INFILL, {"JAX_PLATFORMS": "cuda"}, "pip install 'cfx_jax[cuda]' or 'cfx_jax[tpu]'"),
        (
            ["cfx_jax.main", "--distributed"],
            {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "2"},
            "incomplete, it lacks SLURM_STEP_NODELIST, SLURM_PROCID, SLURM_LOCALID: start the",
        ),
        (
            ["cfx_jax.evaluate", "--distributed"],
            {"JAX_COORDINATOR_ADDRESS": "localhost:1"},
            "cannot join the other processes (Number of processes must be defined.); on plain",
        ),
        (["cfx_jax.main", "--distributed"], {}, "(no TPU slice and no Slurm job was found)"),
    ],
)
def test_command_names_a_faulty_environment_in_one_line(command, environment, message, tmp_path):
    whole = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    ended = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=whole | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert ended.returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_run_results_do_not_depend_on_jax_settings(commands, tmp_path):
    arguments = ["--config.data.max_examples=2", "--config.report.save_images=False"]
    commands.run(tmp_path / "plain", *arguments, environment=commands.unoptimised)
    expected = RecordReader(tmp_path / "plain")
    for number, environment in enumerate(
        [
            {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg"},
            {"JAX_DEBUG_NANS": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
            | {"JAX_DISABLE_JIT": "1", "JAX_DEBUG_KEY_REUSE": "1"},
        ]
    ):
        workdir = tmp_path / str(number)
        environment |= commands.unoptimised
        shown = commands.run(workdir, *arguments, environment=environment)
        assert ("warning: JAX_ENABLE_X64 is ignored" in shown) == (number == 0)
        found = RecordReader(workdir)
        assert found.fields == expected.fields
        for field in expected.fields:
            np.testing.assert_array_equal(found.read(field.name), expected.read(field.name))


@pytest.mark.slow
def test_command_prints_names_outside_the_locale(commands, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    photograph = commands.photographs / "00.png"
    (folder / "café.png").write_bytes(photograph.read_bytes())
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment |= commands.unoptimised
    shown = commands.run(tmp_path / "run", f"--config.data.path={folder}", environment=environment)
    assert r"caf\xe9.png" in shown
    assert RecordReader(tmp_path / "run").ids() == ["café.png"]
