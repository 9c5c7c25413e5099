"""Corpora by name, and synthetic ones."""
