"""Tasks, which compute the loss of a batch."""
