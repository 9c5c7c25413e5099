"""Kinds of network, one class each."""
