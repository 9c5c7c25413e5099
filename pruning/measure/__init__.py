"""Time, memory and plans."""
