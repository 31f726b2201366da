"""The trainer: one page of loop, and the engine, checkpoint and log that it calls."""
