"""Encoders, one file per library."""
