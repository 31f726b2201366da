"""The files that volumes come in, a reader each: to the array as it lies in the file, with what the header says of it."""
