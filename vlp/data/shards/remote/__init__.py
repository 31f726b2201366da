"""Shards on other machines: URLs, downloads, local copies."""
