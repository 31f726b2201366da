"""Shards that other tools wrote."""
