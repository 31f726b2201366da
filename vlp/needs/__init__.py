"""What an objective may ask for: one file per need."""
