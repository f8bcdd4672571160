"""Generates the page of all commands from their flags and the docstrings of their configs.

The descriptions of fields come only from the docstrings of the configs. A field without a
description is an error.
"""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import itertools
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import griffe
import names

import cfx_jax
from cfx_jax.commands import command_line
from cfx_jax.commands.dispatcher import COMMANDS
from cfx_jax.config import Config
from cfx_jax.evaluate import EvaluateConfig
from cfx_jax.fido import Settings
from cfx_jax.train import TrainClassifierConfig, TrainConfig

PACKAGE = pathlib.Path(cfx_jax.__file__).parent
# Commands with a config: its type, and the modules that define flags besides `command_line.py`.
CONFIGURED: dict[str, tuple[type, list[str]]] = {
    "cfx_jax.main": (Config, ["runs/cluster.py"]),
    "cfx_jax.evaluate": (EvaluateConfig, ["commands/evaluate.py", "runs/cluster.py"]),
    "cfx_jax.train": (TrainConfig, []),
    "cfx_jax.train_classifier": (TrainClassifierConfig, []),
}
# Commands with flags only.
FLAGGED = {"cfx_jax.infill_folder": ["commands/infill_folder.py"]}
# Commands with arguments, and the sub-commands whose help is shown.
ARGUED: dict[str, list[list[str]]] = {
    "cfx_jax.commands.explain": [[]],
    "cfx_jax.records": [[], ["status"], ["verify"], ["export"]],
    "cfx_jax.report": [[]],
    "cfx_jax.weights": [[], ["inspect"]],
}
_HEAD = """# Commands and options

Every command is a module, `python -m NAME`. A command that takes a config is called as follows:

```text
python -m NAME --config=FILE --workdir=DIR --config.section.field=value
```

FILE is a Python file with a function `get_config()`, or the name of a config of the package. Every
field can be set after it. This page is generated from the docstrings of the configs and from the
flags.
"""


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command line.

    Attributes:
        name: name without its dashes.
        default: `repr` of the default value, empty where there is none.
        text: description.
    """

    name: str
    default: str
    text: str


def write_page() -> str:
    """Returns the page as Markdown."""
    parts: list[str] = [_HEAD]
    for module, (config_type, files) in CONFIGURED.items():
        parts += [_begin(module), _flag_table(["commands/command_line.py", *files])]
        parts.append(_config_files(config_type))
        parts += _sections(config_type)
    for module, files in FLAGGED.items():
        parts += [_begin(module), _flag_table(files)]
    for module, calls in ARGUED.items():
        parts.append(_begin(module))
        parts += [f"```text\n{help_of(module, words)}\n```" for words in calls]
    return "\n\n".join(parts) + "\n"


def read_flags(file: str) -> Iterator[Flag]:
    """Yields the flags that a module of the package defines, without importing the module."""
    tree = ast.parse((PACKAGE / file).read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_"):
            name, default, text = (ast.literal_eval(value) for value in node.args[:3])
            yield Flag(name, "" if default in (None, "", []) else repr(default), text)


def read_fields(config_type: type) -> dict[str, str]:
    """Returns the descriptions of fields in the docstrings of a config type and its parents.

    Fields that a config inherits from `Settings` are described there.

    Raises:
        KeyError: the docstrings do not describe a field.
    """
    descriptions: dict[str, str] = {}
    for kind in (Settings, *reversed(config_type.__mro__[:-1])):
        docstring = griffe.Docstring(inspect.getdoc(kind) or "")
        for section in docstring.parse("google", warnings=False):
            if section.kind is griffe.DocstringSectionKind.attributes:
                for attribute in section.value:
                    descriptions[attribute.name] = name_choices(
                        attribute.description, kind.__module__
                    )
    names = [field.name for field in dataclasses.fields(config_type)]
    if missing := [name for name in names if name not in descriptions]:
        raise KeyError(f"the docstring of {config_type.__name__} does not describe {missing}")
    return {name: descriptions[name] for name in names}


def name_choices(text: str, module: str) -> str:
    """Returns the description of a field with names of constants replaced by their values."""

    def name(match: re.Match[str]) -> str:
        home, _, constant = match[2].rpartition(".")
        choices = getattr(importlib.import_module(home or module), constant)
        few = "some of " if match[1] == "names" else "one of "
        return few + ", ".join(f"`{choice}`" for choice in choices)

    return re.sub(r"(one|a name|names) of `([\w.]*[A-Z]{3,})`", name, text)


def help_of(module: str, words: list[str]) -> str:
    """Returns the `--help` text of a command with arguments."""
    path = f"cfx_jax.commands.{module.rpartition('.')[2]}"
    main: Callable[[], None] = importlib.import_module(path).main
    shown = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [module, *words, "--help"]),
        mock.patch.dict("os.environ", COLUMNS="100"),
        contextlib.redirect_stdout(shown),
        contextlib.suppress(SystemExit),
    ):
        main()
    return shown.getvalue().strip()


def _begin(module: str) -> str:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    name = module.removeprefix("cfx_jax.")
    short = next(short for short, command in COMMANDS.items() if command.module == name)
    if name.startswith("commands."):  # It has no module of its own next to the package's face.
        return f"## cfx_jax {short}\n\n{text}"
    return f"## {module}\n\n{text}\n\nShort form: `cfx_jax {short}`."


def _flag_table(files: list[str]) -> str:
    flags = itertools.chain(*map(read_flags, files))
    rows = [f"| `--{flag.name}` | {_code(flag.default)} | {_cell(flag.text)} |" for flag in flags]
    return "\n".join(["| flag | default | description |", "|---|---|---|", *rows])


def _config_files(config_type: type) -> str:
    rows = []
    for name, path in command_line.packaged_configs(config_type).items():
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        rows.append(f"| `--config={name}` | {_cell(text.partition(chr(10))[0])} |")
    return "\n".join(["| config | description |", "|---|---|", *rows])


def _sections(config_type: type) -> Iterator[str]:
    """Yields a table for the fields of a config and one for each of its sections.

    Fields inherited from `Config` are described only once, with `Config`.
    """
    fields, descriptions = dataclasses.fields(config_type), read_fields(config_type)
    old = {f.name for f in dataclasses.fields(Config)} if config_type is not Config else set()
    own = [field for field in fields if field.name not in old]
    if old & {field.name for field in fields if issubclass(config_type, Config)}:
        yield "It also takes the fields of [`python -m cfx_jax.main`](#cfx_jaxmain)."
    elif config_type is not Config:
        own = list(fields)
    yield _field_table("config", own, descriptions)
    for field in own:
        section = _default(field)
        if not dataclasses.is_dataclass(section):
            continue
        path = f"config.{field.name}"
        if config_type is not Config and type(section).__module__ == Config.__module__:
            changed = ", ".join(f"`{path}.{k}={v}`" for k, v in _changes(section))
            yield f"`{path}` has the fields [of a run](#configdata), by default {changed}."
        else:
            inner = [(one, getattr(section, one.name)) for one in dataclasses.fields(section)]
            yield f"### {path}\n\n" + _field_table(
                path, [one for one, _ in inner], read_fields(type(section))
            )


def _field_table(
    path: str, fields: list[dataclasses.Field[Any]], descriptions: dict[str, str]
) -> str:
    rows = []
    for field in fields:
        default = _default(field)
        if dataclasses.is_dataclass(default):
            continue
        kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        # The line may break after the dot on narrow screens.
        name = f"<code>{path}.<wbr>{field.name}</code>"
        cells = f"{name} | `{kind.replace(' | ', ' or ')}` | `{default!r}`"
        rows.append(f"| {cells} | {_cell(descriptions[field.name])} |")
    return "\n".join(["| field | type | default | description |", "|---|---|---|---|", *rows])


def _changes(section: Any) -> Iterator[tuple[str, Any]]:
    usual = type(section)()
    for field in dataclasses.fields(section):
        if (value := getattr(section, field.name)) != getattr(usual, field.name):
            yield field.name, value


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _cell(text: str) -> str:
    line = " ".join(text.split()).replace("|", r"\|")
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", names.link_names(line, {}))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
