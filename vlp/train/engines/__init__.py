"""Engines: the only place that knows DDP, FSDP and DeepSpeed."""
