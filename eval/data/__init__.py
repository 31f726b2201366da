"""Evaluation data: tables and shards with labels, boxes and masks."""
