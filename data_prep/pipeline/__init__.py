"""From records to shards."""
