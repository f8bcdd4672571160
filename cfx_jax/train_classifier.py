"""Trains a small classifier: `python -m cfx_jax.train_classifier --config=FILE [--workdir=DIR]`."""

from cfx_jax.commands.train_classifier import main

if __name__ == "__main__":
    main()
