"""What every part stands on: configuration, registry, processes, errors, locks."""
