"""Phrase grounding."""
