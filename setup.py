"""What pyproject.toml cannot say: the recipes lie beside the package here, and inside it when it is installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["diffusion*"]), "diffusion.configs"],
    package_dir={"diffusion.configs": "configs"},
)
