"""Export: one file per format."""
