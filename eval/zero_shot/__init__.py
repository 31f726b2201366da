"""Prompts, and class scores from them."""
