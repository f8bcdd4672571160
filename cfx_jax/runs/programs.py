"""Caches compiled programs from one command to the next."""

import hashlib
import logging
import os
import pathlib
import platform

import jax

_logger = logging.getLogger(__name__)


def keep_programs() -> None:
    """Makes JAX cache programs that take more than a second to compile in the user's cache folder.

    The folder is `~/.cache/cfx_jax`, or below `XDG_CACHE_HOME`. JAX's own settings take precedence:
    `JAX_COMPILATION_CACHE_DIR=DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false` turns
    the cache off. If the folder cannot be created, a message is logged and nothing is cached. Call
    this function before anything is compiled.
    """
    values = jax.config.values
    given = values["jax_compilation_cache_dir"]
    if not values["jax_enable_compilation_cache"] or (given and "://" in given):
        return
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = pathlib.Path(given or pathlib.Path(base).expanduser() / "cfx_jax" / _machine())
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # There is no home folder, or it is not writable.
        _logger.info("compiled programs are not kept: %s", error)
        jax.config.update("jax_compilation_cache_dir", None)
        return
    if not given and os.access(folder, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _machine() -> str:
    """Returns a name of the kind of processor.

    Programs for one kind may not run on another, and machines may share a home folder.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    kind = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    digest = hashlib.sha256(f"{kind} {platform.processor()}".encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"
