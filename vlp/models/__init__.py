"""Towers, heads and the dual encoder that puts them together."""
