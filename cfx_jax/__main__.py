"""Dispatches all commands: `cfx_jax COMMAND ...`, or `python -m cfx_jax COMMAND ...`.

The arguments after COMMAND are passed to the command; `cfx_jax COMMAND --help` shows its help.
"""

from cfx_jax.commands.dispatcher import main

if __name__ == "__main__":
    main()
