from setuptools import find_packages, setup

# The config files lie beside the package, where people look for them, and are installed in it.
setup(
    packages=[*find_packages(include=["cfx_jax", "cfx_jax.*"]), "cfx_jax.configs"],
    package_dir={"cfx_jax.configs": "configs"},
)
