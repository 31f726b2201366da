"""The metrics: pure functions of numpy arrays, one file per family. An undefined metric is None, never NaN and never .5."""
