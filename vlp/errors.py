"""The error of what a user can put right."""

from __future__ import annotations


class ConfigError(ValueError):
    """Something in a recipe, on the command line or in the data is wrong; the message says where, what was expected, and
    the nearest right name."""
