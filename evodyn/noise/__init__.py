"""Models of noise, and their laws."""
