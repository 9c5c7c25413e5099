"""Import of networks from other toolkits."""
