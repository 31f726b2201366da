"""The data path: shards (what there is), sampling (the order, and which rank reads what), loader (the only reader)."""
