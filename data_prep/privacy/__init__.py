"""Identifiers: hashing, scanning, burned-in text."""
