"""N-gram models of words."""
