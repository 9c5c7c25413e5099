"""Structured pruning of speech recognisers: units, gates, costs, distillation, extraction, and recipes over them."""

from pruning import processor

processor.prepare()  # before anything of this package imports torch
