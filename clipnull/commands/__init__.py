"""What the commands of `clipnull` do: a function each, which returns the exit status, and their options."""
