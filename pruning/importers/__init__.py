"""Networks of others as networks of ours."""
