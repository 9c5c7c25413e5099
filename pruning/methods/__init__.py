"""Pruning methods: how the units to remove are chosen."""
