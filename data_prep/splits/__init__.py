"""Splits by patient, near duplicates."""
