"""Images: files to pixels. Preparation, training, scoring, `from_pretrained` and export all read them here."""
