"""Shards on disk: tar index, manifest, reader, cache."""
