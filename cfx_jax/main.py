"""Explains a dataset: `python -m cfx_jax.main --config=FILE [--workdir=DIR] [--config.a.b=...]`.

Several processes share a run with `--distributed`, or with `--coordinator_address`,
`--num_processes` and `--process_id`.
"""

from cfx_jax.commands.main import main

if __name__ == "__main__":
    main()
