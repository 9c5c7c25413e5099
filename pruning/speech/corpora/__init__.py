"""Real and synthetic corpora."""
