"""Trains an in-filling generator: `python -m cfx_jax.train --config=FILE [--workdir=DIR]`."""

from cfx_jax.commands.train import main

if __name__ == "__main__":
    main()
