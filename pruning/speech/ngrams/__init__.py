"""Word n-gram models."""
