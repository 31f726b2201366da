"""One file per command of `vlp-prep`: `arguments(parser, argv)` says what it takes, `run(args)` does it."""
