"""The README promises only what runs."""

import dataclasses
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import cfx_jax
from cfx_jax.fido.settings import MODES

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks():
    return re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_runs(monkeypatch):
    """With two steps instead of 60, which changes no shape."""
    short = dataclasses.replace(MODES["region"], num_steps=2, num_samples=1)
    monkeypatch.setitem(MODES, "region", short)
    names = {}
    exec(python_blocks()[0], names)
    explanation = names["e"]
    assert explanation.keep_prob.shape == (1, 14, 14)
    assert explanation.saliency.shape == (1, 224, 224)
    assert explanation.target.tolist() == [285]


def test_adapters_are_called_as_shown():
    images = jnp.linspace(0.0, 1.0, 2 * 5 * 5 * 3).reshape(2, 5, 5, 3)
    module = nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(4)])
    names = {
        "module": module,
        "variables": module.init(jax.random.key(0), images),
        "apply": lambda params, images: images.reshape(len(images), -1) @ params,
        "params": jnp.ones((75, 2)),
        "images": images,
    }
    code = python_blocks()[1]
    exec(code, names)
    assert isinstance(names["classifier"], cfx_jax.Classifier)
    for name in re.findall(r"from_\w+", code):
        assert callable(getattr(names["adapters"], name))


def test_several_networks_and_infills_are_joined_as_shown():
    names = {"cfx_jax": cfx_jax}
    (code,) = python_blocks()[2:]
    exec(code, names)
    assert names["networks"].name == "efficientnet_lite0+efficientnet_lite1+efficientnet_lite2"
    assert names["infills"].name == "gated_unet+blur"


def test_there_are_exactly_two_set_up_commands():
    section = re.search(r"^## Set up\n(.*?)^## ", TEXT, re.DOTALL | re.MULTILINE)[1]
    commands = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert [len(command.splitlines()) for command in commands] == [1, 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_resolve(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_options_named_are_options_there_are():
    from cfx_jax.config import Config, check_field
    from cfx_jax.evaluate.config import EvaluateConfig
    from cfx_jax.train.config import TrainConfig

    evaluation = TEXT.partition("## How good are they\n")[2].partition("\n## ")[0].splitlines()
    for line in TEXT.splitlines():
        kind = EvaluateConfig if line in evaluation else Config
        config = TrainConfig() if "cfx_jax.train" in line else kind()
        for path in re.findall(r"--config\.([\w.]+)=", line):
            check_field(config, path)
