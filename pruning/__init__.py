"""Structured pruning of speech recognisers: units, gates, costs, distillation, extraction, and recipes over them."""
