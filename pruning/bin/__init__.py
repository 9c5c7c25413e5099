"""Commands, one per module: each parses its options, calls the package and prints the result."""
