"""The code blocks and commands in the README and in docs/ run.

Blocks of Python run page by page and in order, with two optimiser steps instead of 60. Commands are
compared with the programs: modules, files, flags, fields and their values. Blocks that cannot run
have a title that states this, and `NOT_RUN` lists them.
"""

import dataclasses
import importlib
import pathlib
import re
import shlex
import sys
import tomllib
from typing import NamedTuple
from unittest import mock

import jax
import pytest
from absl import flags
from PIL import Image
from skimage import data

import cfx_jax
from cfx_jax.commands import command_line, explain
from cfx_jax.config import Config, ConfigError, ExplainConfig, GeneratorConfig, check_field
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.fido.settings import MODES
from cfx_jax.train.config import TrainClassifierConfig, TrainConfig

# Of ml_collections, when it loads a config file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# Run by tests/test_site.py.
ELSEWHERE = {ROOT / "docs" / "tutorial.md"}
NOT_RUN = [
    ("own_images.md", "not run: takes a minute"),
    ("own_model.md", "not run: needs your file of weights"),
]
# What the blocks of a page lead to.
SHOWN = {
    "README.md": [
        "e.keep_prob.shape == (1, 28, 28)",
        "e.saliency.shape == (1, 224, 224)",
        "e.target.tolist() == [967]",
    ],
    "choose.md": ["(faster.num_steps, faster.mask_size) == (48, 28)"],
    "compare.md": ["maps.shape == (1, 224, 224)", "'grad_cam' in METHODS"],
    "index.md": ["e.keep_prob.shape == (1, 28, 28)", "e.target.tolist() == [967]"],
    "own_images.md": ["config.explain.top_classes == 2"],
    "own_model.md": [
        "classifier.name == 'Sequential'",
        "networks.name == 'efficientnet_lite0+efficientnet_lite1+efficientnet_lite2'",
        "infills.name == 'gated_unet+blur'",
    ],
    "records.md": ["coffee.target == 967", "run.objectives == ('ssr', 'sdr')"],
}
# Of commands with a config: its type, and where their other flags are defined.
CONFIGURED = {
    "cfx_jax.main": (Config, "demo", ["runs/cluster.py"]),
    "cfx_jax.evaluate": (EvaluateConfig, "evaluation", ["runs/cluster.py", "commands/evaluate.py"]),
    "cfx_jax.train": (TrainConfig, "", []),
    "cfx_jax.train_classifier": (TrainClassifierConfig, "", []),
}
ARGUED = ("cfx_jax.records", "cfx_jax.report", "cfx_jax.weights")


class Block(NamedTuple):
    """A block of code: its page, language, title and content."""

    page: pathlib.Path
    language: str
    title: str
    content: str


def blocks_of(page):
    fences = re.findall(r"^ *```(\w*)([^\n]*)\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.M)
    for language, info, content in fences:
        title = re.fullmatch(r' title="([^"]*)"', info)
        assert title or not info.strip(), (page.name, info)
        yield Block(page, language, title[1] if title else "", content)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [block for block in BLOCKS if block.language == "python" and block.page not in ELSEWHERE]
COMMANDS = [
    (block.page, line.strip())
    for block in BLOCKS
    if block.language == "sh"
    for line in block.content.replace("\\\n", " ").splitlines()
]


def test_readme_is_short_with_two_setup_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    section = re.search(r"^## Set up\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)[1]
    commands = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert [len(command.splitlines()) for command in commands] == [1, 1]


def test_docs_blocks_have_a_checked_language():
    known = {"python", "sh", "text", "bibtex"}
    assert [block for block in BLOCKS if block.language not in known] == []
    assert len(RUN) >= 20
    assert len(COMMANDS) > 40


def test_docs_blocks_not_run_are_marked():
    marked = [(b.page.name, b.title) for b in RUN if b.title.startswith("not run")]
    assert sorted(marked) == NOT_RUN


@pytest.fixture(scope="module")
def quick():
    """Two steps of one mask and no settling, which changes no shape."""
    with pytest.MonkeyPatch.context() as patch:
        short = dataclasses.replace(
            MODES["region"], num_steps=2, num_samples=1, warm_start_steps=0, success_target=0.0
        )
        patch.setitem(MODES, "region", short)
        yield


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory, quick):
    """A folder that holds `photos`, and `runs/demo` of a classifier that costs nothing."""
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    Image.fromarray(data.chelsea()).save(home / "photos" / "cat.png")
    classifier = cfx_jax.Classifier(
        params=jax.random.normal(jax.random.key(0), (3, 1000)),
        apply=lambda params, images: 9.0 * images.mean((1, 2)) @ params,
        image_size=(16, 16),
        class_names=cfx_jax.load_classifier("efficientnet_lite0").class_names,
    )
    config = Config(explain=ExplainConfig(mask_size=4), generator=GeneratorConfig("grey"))
    cfx_jax.run(config, home / "runs" / "demo", classifier=classifier)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({b.page for b in RUN}), ids=lambda page: page.name)
def test_docs_python_runs(page, demo_run, monkeypatch):
    monkeypatch.chdir(demo_run)
    names = {}
    for block in RUN:
        if block.page == page and not block.title.startswith("not run"):
            exec(compile(block.content, f"{page.name}: {block.content[:40]!r}", "exec"), names)
    for expression in SHOWN[page.name]:
        assert eval(expression, names), expression


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: getattr(value, "name", ""))
def test_docs_commands_exist(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in line.split("&&"):
        words = shlex.split(command, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        check_command(words)


def check_command(words):
    """Raises where a command is none, or takes no such arguments."""
    match words:
        case ["export", *pairs]:
            assert all(re.fullmatch(r"[A-Z_]+=\S+", pair) for pair in pairs)
        case ["python", "-m", "pip", "install", *what]:
            check_extras(what)
        case ["python", "-m", "pytest", *options]:
            assert options in ([], ["-m", "slow"])
        case ["python", "-m", "mkdocs", *options] | ["mkdocs", *options]:
            assert options in (["build", "--strict"], ["serve"])
        case ["cfx_jax", "explain", *arguments]:
            explain.parse(arguments)
        case ["python", "-m", module, *arguments]:
            check_module(module, arguments)
        case ["python", script, *arguments]:
            before = arguments.index("--") if "--" in arguments else len(arguments)
            check_script(script, arguments[:before])
            if arguments[before:]:
                check_module("cfx_jax.main", arguments[before + 1 :])
        case ["sbatch", *arguments]:
            script = next(k for k, word in enumerate(arguments) if not word.startswith("-"))
            check_launcher(arguments[script:])
        case _:
            check_launcher(words)


def check_launcher(words):
    script, *arguments = words
    assert (ROOT / script).is_file()
    assert script.startswith("launch/")
    check_module("cfx_jax.main", arguments)


def check_extras(what):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in what:
        package, extra = re.fullmatch(r"(\.|cfx_jax)(?:\[(\w+)\])?", requirement).groups()
        assert package
        assert extra is None or extra in project["optional-dependencies"]


def check_script(script, arguments):
    source = (ROOT / script).read_text()
    for name in re.findall(r"^--(\w+)", "\n".join(arguments), re.M):
        assert re.search(rf'"--{name}"|DEFINE_\w+\(\s*"{name}"', source), f"{script} --{name}"


def check_module(module, arguments):
    if module in ARGUED:
        with (
            mock.patch.object(sys, "argv", [module, *arguments]),
            mock.patch.object(command_line, "exit_with"),
        ):
            importlib.import_module(module.replace(".", ".commands.")).main()
    elif module == "cfx_jax.infill_folder":
        check_script("cfx_jax/commands/infill_folder.py", arguments)
    else:
        check_configured(module, arguments)


def check_configured(module, arguments):
    config_type, default, files = CONFIGURED[module]
    source = "".join((ROOT / "cfx_jax" / file).read_text() for file in files)
    others = {*re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source)}
    own = [a for a in arguments if re.match(r"--(\w+)", a)[1] not in others]
    config, _, rest = command_line.parse_command(
        [module, *own], config_type, default, flags.FlagValues()
    )
    assert rest == [module]
    config.validate()


def test_docs_options_exist():
    kinds = (Config(), EvaluateConfig(), TrainConfig(), TrainClassifierConfig())
    for page in PAGES:
        for path in re.findall(r"--config\.([\w.]*\w)", page.read_text()):
            if path in ("section.field", "a.b"):
                continue
            errors = []
            for kind in kinds:
                try:
                    check_field(kind, path)
                except ConfigError as error:
                    errors.append(error)
            assert len(errors) < len(kinds), (page.name, errors)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_links_to_files_resolve(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("python -m cfx_jax.main --config.explain.steps=3", ConfigError),
        ("python -m cfx_jax.main --config.explain.num_steps=many", ConfigError),
        ("python -m cfx_jax.main --config.explain.mode=other", ConfigError),
        ("python -m cfx_jax.main --config=missing", ConfigError),
        ("python -m cfx_jax.main --record=DIR", ConfigError),
        ("python -m cfx_jax.nothing", KeyError),
        ("python -m cfx_jax.records look DIR", SystemExit),
        ("python -m cfx_jax.report runs/a runs/b", SystemExit),
        ("python -m pip install '.[nothing]'", AssertionError),
        ("python benchmarks/engine.py --nothing=1", AssertionError),
        ("launch/nothing.sh --config=demo", AssertionError),
    ],
)
def test_check_command_finds_unknown_commands(line, error, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(error):
        check_command(shlex.split(line))


def test_docs_statuses_match_their_definition():
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (.*) \| (.*) \|$",
        (ROOT / "docs/concepts.md").read_text(),
        re.MULTILINE,
    )
    assert {name: (meaning, advice) for name, meaning, advice in rows} == {
        status.name: (status.meaning, status.advice) for status in cfx_jax.Status
    }
