"""Evaluates explanations: `python -m cfx_jax.evaluate --records=DIR ... | --config=FILE`."""

from cfx_jax.commands.evaluate import main

if __name__ == "__main__":
    main()
