"""Embeddings: computed once, cached, searched."""
