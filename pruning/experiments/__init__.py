"""Experiment directories and their files."""
