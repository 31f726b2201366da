"""Pretrained weights: files, parameter names, loading."""
