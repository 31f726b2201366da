"""Engines: the only place that knows DDP, FSDP and DeepSpeed. One file each, entered into `base.engines` on import."""

# ruff: noqa: F401
from . import deepspeed, torch
