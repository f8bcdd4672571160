from setuptools import find_packages, setup

# Folders without a module, which setuptools warns that it may leave out.
FILES = ["cfx_jax.report.static", "cfx_jax.report.templates"]

# The config files lie beside the package, where people look for them, and are installed in it.
setup(
    packages=[*find_packages(include=["cfx_jax", "cfx_jax.*"]), *FILES, "cfx_jax.configs"],
    package_dir={"cfx_jax.configs": "configs"},
)
