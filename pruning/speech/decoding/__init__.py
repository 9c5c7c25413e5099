"""From network outputs to hypotheses."""
