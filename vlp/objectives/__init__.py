"""Training objectives: one file each, entered into `base.objectives` on import."""
