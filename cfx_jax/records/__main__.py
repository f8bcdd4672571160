"""Inspects the records of a run: `python -m cfx_jax.records status|verify|export DIR`."""

from cfx_jax.commands.records import main

if __name__ == "__main__":
    main()
