"""All commands under one name: `cfx_jax COMMAND ...`, or `python -m cfx_jax COMMAND ...`.

Each is handed its arguments as they are, and `cfx_jax COMMAND --help` is its own help.
"""

from cfx_jax.commands.dispatcher import main

if __name__ == "__main__":
    main()
