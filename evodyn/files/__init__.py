"""Results come back from files."""
