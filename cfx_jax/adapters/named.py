"""Calls user-defined functions by name: `package.module:function` or `path/to/file.py:function`.

The code of the function runs with all rights of the user who names it. No other code is run.
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

from cfx_jax.generators import one_line


def is_named(name: str) -> bool:
    """Returns whether a name refers to a function, such as `package.module:function`."""
    return ":" in name


def build(name: str, weights: str | None = None) -> Any:
    """Calls a function by its name and returns its result.

    Args:
        name: name of the function, `package.module:function` as in entry points, or
            `path/to/file.py:function`.
        weights: argument of the function; None calls it without an argument.

    Returns:
        The result of the function, not None.

    Raises:
        ValueError: the function does not exist, is asynchronous, takes other arguments, raises,
            exits the program or returns None; the message states the cause in one line.

    Example:
        >>> build("builtins:dict")
        {}
    """
    function = _find(name)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(f"{name} is defined with `async def`; expected a function with `def`")
    arguments = () if weights is None else (weights,)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        given = "no argument" if weights is None else "the path of the weights"
        flags = "pass one with --config.classifier.weights=FILE or --config.generator.weights=FILE"
        hint = f"; {flags}" if weights is None else ""
        raise ValueError(f"{name} is called with {given}, but: {error}{hint}") from error
    except ValueError:
        pass  # Some built-in functions have no signature.
    try:
        built = function(*arguments)
    except (Exception, SystemExit) as error:  # Code written as a script may call sys.exit.
        raise ValueError(f"{name} raises {one_line(error)}") from error
    if built is None:
        raise ValueError(f"{name} returns None; expected a model")
    return built


def origin(name: str, weights: str | None, constants: Iterable[Any]) -> str:
    """Returns the SHA-256 of the sources of a model that a named function builds.

    The sources are the file of the function and the files that it imports from the same folder, the
    weights file that is passed to the function, and arrays that the model closes over. Numbers that
    the model closes over are not covered; only a model with its weights in `params` is compared
    completely.

    Args:
        name: name of the function, as in `build`.
        weights: argument of the function, as in `build`.
        constants: arrays that the model closes over.

    Returns:
        The digest in hexadecimal.

    Raises:
        ValueError: the function does not exist.
    """
    digest = hashlib.sha256()
    home = sys.modules.get(getattr(inspect.unwrap(_find(name)), "__module__", ""))
    for path in sorted(_source_files(home)):
        digest.update(path.read_bytes())
    if weights is not None and os.path.isfile(weights):
        digest.update(pathlib.Path(weights).read_bytes())
    for constant in constants:
        array = np.asarray(constant)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _source_files(home: ModuleType | None) -> set[pathlib.Path]:
    """Returns the files of a module and of all modules in its folder that it imports."""
    files: dict[str, pathlib.Path] = {}
    waiting = [home]
    while waiting:
        module = waiting.pop()
        file = getattr(module, "__file__", None)
        if module is None or file is None or module.__name__ in files:
            continue
        path = pathlib.Path(file)
        first = next(iter(files.values()), path)
        if path.suffix != ".py" or not path.is_relative_to(first.parent):
            continue
        files[module.__name__] = path
        values = list(vars(module).values())
        waiting += [value for value in values if isinstance(value, ModuleType)]
        names = {getattr(value, "__module__", None) for value in values}
        waiting += [sys.modules.get(name) for name in names if isinstance(name, str)]
    return set(files.values())


def _find(name: str) -> Callable[..., Any]:
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise ValueError(
            f"{name!r} is not the name of a function; expected package.module:function or "
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
    # As with `python -m`, allow modules in the working directory.
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
    # The key is the path, so that two files with the same name are two modules, each run once.
    key = f"cfx_jax_named_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look up their module while it runs.
    sys.modules[key] = module
    # Other modules of the folder can be imported by name, as when Python runs the file.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        raise ValueError(f"{name}: {path} cannot be run: {one_line(error)}") from error
    return module
