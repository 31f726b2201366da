"""The data path: manifest (what there is), plan (who reads what, in which order), loader (the only reader)."""
