"""Compiled programs, kept from one command to the next."""

import hashlib
import logging
import os
import pathlib
import platform

import jax

_logger = logging.getLogger(__name__)


def keep_programs() -> None:
    """Lets JAX keep what it compiles for longer than a second in the user's cache folder.

    That is `~/.cache/cfx_jax`, or below `XDG_CACHE_HOME`. JAX's own settings go before:
    `JAX_COMPILATION_CACHE_DIR=DIR` keeps programs elsewhere, `JAX_ENABLE_COMPILATION_CACHE=false`
    nowhere. If a folder cannot be made, a warning says so and nothing is kept. Call it before
    anything is compiled.
    """
    values = jax.config.values
    given = values["jax_compilation_cache_dir"]
    if not values["jax_enable_compilation_cache"] or (given and "://" in given):
        return
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = pathlib.Path(given or pathlib.Path(base).expanduser() / "cfx_jax" / _machine())
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # No home, or nothing can be written there.
        _logger.info("compiled programs are not kept: %s", error)
        jax.config.update("jax_compilation_cache_dir", None)
        return
    if not given and os.access(folder, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _machine() -> str:
    """Returns a name of the kind of processor: a program for one may be none for another.

    A home may be shared by machines of several kinds.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    kind = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    digest = hashlib.sha256(f"{kind} {platform.processor()}".encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"
