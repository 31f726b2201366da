"""The version of vlp."""

__version__ = "0.1.0"
