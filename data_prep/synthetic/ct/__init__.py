"""Synthetic chest CT with reports: bodies that are functions of millimetres, so that any file of them has an exact answer."""
