"""One file per data set layout, each yielding `Sample`s."""
