"""Embedders: models of several libraries behind one interface."""
