"""Texts: specification and tokenizers."""
