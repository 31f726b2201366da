"""Encoders, one file per library: importing the package registers them."""

# ruff: noqa: F401
from . import conv, hf, open_clip, timm, volume
