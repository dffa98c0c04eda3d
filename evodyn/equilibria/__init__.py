"""Rest points and their certificates."""
