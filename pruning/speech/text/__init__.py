"""Tokens, sentences and output tables."""
