"""The benchmark of accelerators, at a size for a CPU: it runs, and reports all its figures."""

import json
import pathlib
import subprocess
import sys

import jax
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "accelerator.py"
NETWORKS = {"resnet18", "efficientnet_lite0", "gated_unet"}


def measure(path, *arguments):
    command = [sys.executable, SCRIPT, "--size=small", f"--output={path}", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(path.read_text()), process.stdout


def check_device(found):
    assert found["device_kind"] == found["platform"] == "cpu"
    assert found["versions"]["jax"] == jax.__version__
    assert {"cfx_jax", "jaxlib", "python"} <= set(found["versions"])
    assert found["peak_bytes"] is None
    assert found["sizes"]["side"] == 32
    assert set(found["ceilings"]) == {"matmul_flop_per_s", "copy_bytes_per_s"}
    assert all(rate > 0 for rate in found["ceilings"].values())


def test_accelerator_stages_can_be_chosen_and_end_in_time(tmp_path):
    found, out = measure(
        tmp_path / "found.json", "--only", "ceilings", "bfloat16", "--seconds=0.01"
    )
    check_device(found)
    assert list(found["seconds"]) == ["ceilings"]
    assert found["not_measured"] == {"bfloat16": "no time left"}
    assert "ceilings.matmul_flop_per_s" in out
    assert out.splitlines()[-1].split(maxsplit=1) == ["not_measured.bfloat16", "no time left"]


@pytest.mark.slow
def test_accelerator_measures_every_stage(tmp_path):
    found, out = measure(tmp_path / "found.json", "--seconds=3600")
    check_device(found)
    assert set(found["not_measured"]) <= {"pytorch"}
    rates = found["networks"]
    assert set(rates) == {"bfloat16_images_per_s", "float32_images_per_s"}
    for by_name in rates.values():
        assert set(by_name) == NETWORKS
        assert min(by_name.values()) > 0
    for mode in ("fast", "region"):
        figures = found["explanations"][mode]
        assert figures["learning_evaluations"] == 4
        evaluations = figures["learning_evaluations_per_s"]
        assert evaluations == pytest.approx(4 * figures["explanations_per_s"])
        assert figures["program_bytes"] > 0
        alone = rates["float32_images_per_s"]
        seconds = 1 / alone["resnet18"] + 1 / alone["gated_unet"]
        expected = evaluations * seconds
        assert found["share_of_networks"][mode] == pytest.approx(expected)
    assert found["hard_masks"]["images_per_s"] > 0
    assert set(found["training"]) == {"step_images_per_s", "with_crops_images_per_s"}
    assert min(found["training"].values()) > 0
    if "pytorch" not in found["not_measured"]:
        assert found["pytorch"]["networks"]["resnet18"]["float32"] > 0
    assert "share_of_networks.region" in out
