"""Writes the gallery of runs: `python -m cfx_jax.report RUN [RUN ...] [--output=DIR]`."""

from cfx_jax.commands.report import main

if __name__ == "__main__":
    main()
