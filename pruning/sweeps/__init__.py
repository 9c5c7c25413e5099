"""Sweeps: methods x targets x seeds."""
