"""Tokens, sentences and tables."""
