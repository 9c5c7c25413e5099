"""Methods x targets x seeds."""
