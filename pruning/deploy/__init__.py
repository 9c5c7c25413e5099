"""Extraction, exported networks and runtimes."""
