"""Losses of speech recognisers."""
