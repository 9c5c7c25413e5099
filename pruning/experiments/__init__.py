"""Experiment directories and what is in them."""
