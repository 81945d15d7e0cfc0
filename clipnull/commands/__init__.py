"""The commands of `clipnull` and their options; each command is a function that returns the exit status."""
