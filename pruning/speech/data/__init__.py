"""Manifests, features and batches."""
