"""From cuts to batches."""
