"""Finds the packages in the four folders of setup.cfg's `package_dir`."""

from setuptools import find_packages, setup

FOLDERS = {"vlp": "vlp", "vlp_eval": "eval", "vlp_prep": "data_prep", "vlp_recipes": "recipes"}

setup(
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in (package, *(f"{package}.{inner}" for inner in find_packages(folder)))
    ]
)
