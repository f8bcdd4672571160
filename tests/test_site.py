"""The site and its tutorial, with the extra `docs`: pip install '.[docs]'."""

import dataclasses
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

import cfx_jax
from cfx_jax.config import Config
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.train.config import TrainClassifierConfig, TrainConfig

pytestmark = pytest.mark.slow
jupytext = pytest.importorskip("jupytext", reason="needs pip install '.[docs]'")
pytest.importorskip("mkdocs", reason="needs pip install '.[docs]'")

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tutorial():
    """The script that makes the page of the tutorial."""
    spec = importlib.util.spec_from_file_location("make_tutorial", ROOT / "docs/make_tutorial.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_site_fetches_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text())
        loaded = [tag for tag in tags if re.search(r'\b(?:src|href)="?(?:https?:)?//', tag)]
        # The address of the page itself is no load.
        assert [tag for tag in loaded if 'rel="canonical"' not in tag] == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style.name


def paths(config, path="config"):
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{path}.{field.name}"
        yield from paths(value, name) if dataclasses.is_dataclass(value) else [name]


def test_site_command_page_lists_every_config_field(site):
    text = (site / "cli.html").read_text().replace("<wbr>", "")
    for name in [*paths(Config()), *paths(EvaluateConfig())]:
        assert f"<code>{name}</code>" in text
    for config in (TrainConfig(), TrainClassifierConfig()):
        # The sections of the images are documented once.
        for name in paths(config):
            assert f"<code>{name}</code>" in text or name.split(".")[1] in ("data", "heldout")
    for flag in ("distributed", "process_id", "records", "workdir", "masks", "pictures"):
        assert f"--{flag}" in text


def test_site_documents_every_public_name_once(site):
    text = (site / "api.html").read_text()
    for name in cfx_jax.__all__:
        assert f'id="cfx_jax.{name}"' in text
    # Examples are code, with the colours of code.
    assert text.count('<span class="gp">') > 50
    assert ">>>" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL).replace("&gt;", ">")


def test_tutorial_page_is_built_from_its_source(tutorial):
    page, place, rest = tutorial.PAGE.read_text(), 0, ""
    for cell in jupytext.read(tutorial.SOURCE).cells:
        source = tutorial.write_source(cell)
        found = page.find(source, place)
        assert found >= 0, f"python docs/make_tutorial.py: {cell.source}"
        rest += page[place:found]
        place = found + len(source)
    # Besides the source, the page has only a head, outputs and pictures.
    outputs = re.compile(r"```text\n.*?\n```|^!\[[^\n]*\)$", re.DOTALL | re.MULTILINE)
    rest = outputs.sub("", rest + page[place:])
    assert rest.removeprefix(tutorial.HEAD).strip() == ""
    pictures = set(re.findall(r"\]\(images/(tutorial_\w+\.webp)\)", page))
    assert pictures == {path.name for path in tutorial.PICTURES.glob("tutorial_*")}
    assert len(pictures) == 5


# Of the channel to the kernel, in an event loop that is not closed.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_tutorial_runs_from_top_to_bottom(tutorial):
    source = tutorial.SOURCE.read_text()
    # Fewer steps on smaller images: the page contains the outcomes of the full numbers.
    short, num_steps = re.subn(r"\bnum_steps=(?:48|20)\b", "num_steps=2", source)
    short, num_images = re.subn(r"\bdemo_images\(\)", "demo_images(64)", short)
    network = 'load_classifier("efficientnet_lite0")'
    assert (num_steps, num_images, short.count(network)) == (4, 1, 1)
    short = short.replace(network, f"{network}.replace(image_size=(64, 64))")
    notebook = tutorial.run(jupytext.reads(short, fmt="py:percent"))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 5
    # A progress bar of the run, drawn by the notebook, and no line of it in the text.
    assert "application/vnd.jupyter.widget-view+json" in kinds
    assert not any("images, " in o.text for o in outputs if o.get("name") == "stderr")
