"""Error rates, likelihoods and their statistics."""
