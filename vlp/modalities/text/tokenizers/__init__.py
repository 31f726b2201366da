"""Tokenizers, one file per kind."""
