"""Inspects a weights file: `python -m cfx_jax.weights inspect FILE`."""

from cfx_jax.commands.weights import main

if __name__ == "__main__":
    main()
