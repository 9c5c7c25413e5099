"""Structured pruning of speech recognisers: units, gates, costs, distillation, extraction, and the recipes over them."""
