"""Encoders of volumes, one file each: importing the package registers them."""

# ruff: noqa: F401
from . import inflated, monai, patch_conv, slices, vit3d
