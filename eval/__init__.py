"""The zero-shot evaluation harness (installed as `vlp_eval`)."""
