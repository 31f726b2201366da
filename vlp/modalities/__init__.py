"""What a model is given: one folder for each modality."""
