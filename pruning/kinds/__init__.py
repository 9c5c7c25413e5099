"""One object for each kind of network."""
