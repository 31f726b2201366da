"""Data preparation: raw data sets to verified shards (installed as `vlp_prep`)."""
