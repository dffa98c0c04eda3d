"""What follows from runs and rest points."""
