"""Decoding: from network outputs to hypotheses."""
