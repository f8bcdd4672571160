"""A function of the user's own by its name: `package.module:function`, `file.py:function`.

Its code is run because its user has named it, with all that user may do; nothing is run that is
not named.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np


def is_named(name: str) -> bool:
    """Tells `package.module:function` and `path/to/file.py:function` from the names of a table."""
    return ":" in name


def build(name: str, weights: str | None = None) -> Any:
    """Calls a function by its name, and returns what it returns.

    Args:
        name: `package.module:function`, as entry points are spelt, or `path/to/file.py:function`.
        weights: passed to the function if it is not None; then the function has to take it.

    Returns:
        Whatever the function returns, not None.

    Raises:
        ValueError: there is no such function, it is asynchronous, asks for other arguments, raises,
            ends the program or returns None; the message says which, in one line.

    Example:
        >>> build("builtins:dict")
        {}
    """
    function = _find(name)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(f"{name} is written with `async def`; expected a function of plain `def`")
    arguments = () if weights is None else (weights,)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        given = "no argument" if weights is None else "the path of the weights"
        flags = "--config.classifier.weights=FILE gives one, or --config.generator.weights=FILE"
        hint = f"; {flags}" if weights is None else ""
        raise ValueError(f"{name} is called with {given}, but: {error}{hint}") from error
    except ValueError:
        pass  # Some built-in functions do not tell what they take.
    try:
        built = function(*arguments)
    except (Exception, SystemExit) as error:  # Code made for a script of its own ends it.
        raise ValueError(f"{name} raises {one_line(error)}") from error
    if built is None:
        raise ValueError(f"{name} returns None; expected it to return a model")
    return built


def origin(name: str, weights: str | None, constants: Iterable[Any]) -> str:
    """Returns the SHA-256 of what a model that a named function builds is made of.

    Of the file of the function and of those that it imports from the same folder, of the file of
    weights that the function is given, and of arrays that the model has closed over. Numbers that
    it has read and closed over are not seen: a model whose weights are in its `params` is compared
    whole.

    Args:
        name: as in `build`.
        weights: as in `build`.
        constants: arrays that the model has closed over.

    Raises:
        ValueError: there is no such function.
    """
    digest = hashlib.sha256()
    home = sys.modules.get(getattr(inspect.unwrap(_find(name)), "__module__", ""))
    for path in sorted(_own_files(home)):
        digest.update(path.read_bytes())
    if weights is not None and os.path.isfile(weights):
        digest.update(pathlib.Path(weights).read_bytes())
    for constant in constants:
        array = np.asarray(constant)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _own_files(home: ModuleType | None) -> set[pathlib.Path]:
    """Returns the file of a module, and of those in its folder whose names it knows, and so on."""
    found: dict[str, pathlib.Path] = {}
    waiting = [home]
    while waiting:
        module = waiting.pop()
        file = getattr(module, "__file__", None)
        if module is None or file is None or module.__name__ in found:
            continue
        path = pathlib.Path(file)
        first = next(iter(found.values()), path)
        if path.suffix != ".py" or not path.is_relative_to(first.parent):
            continue
        found[module.__name__] = path
        values = list(vars(module).values())
        waiting += [value for value in values if isinstance(value, ModuleType)]
        names = {getattr(value, "__module__", None) for value in values}
        waiting += [sys.modules.get(name) for name in names if isinstance(name, str)]
    return set(found.values())


def _find(name: str) -> Callable[..., Any]:
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise ValueError(
            f"{name!r} names no function; expected package.module:function or "
            "path/to/file.py:function"
        )
    module = _import_file(name, place) if place.endswith(".py") else _import_module(name, place)
    function = getattr(module, attribute, None)
    if function is None:
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ValueError(
            f"{name}: {place} has no {attribute!r}; it has {', '.join(sorted(known)) or 'none'}"
        )
    if not callable(function):
        raise ValueError(
            f"{name} is a {type(function).__name__}; expected a function that returns a model"
        )
    return function


def _import_module(name: str, module: str) -> ModuleType:
    # As `python -m` does: modules beside the caller are found, whoever started it.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name}: {module} cannot be imported: {one_line(error)}") from error


def _import_file(name: str, file: str) -> ModuleType:
    path = pathlib.Path(file).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"{name}: there is no file {path}")
    # By its path, so that two files of one name are two modules, and one is run once.
    key = f"cfx_jax_named_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up while it runs.
    sys.modules[key] = module
    # What lies beside a file is imported by its own name, as when Python runs the file.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        raise ValueError(f"{name}: {path} cannot be run: {one_line(error)}") from error
    return module


def one_line(error: BaseException) -> str:
    """Returns kind and message of an error that code of the user's own has raised."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300]}"
