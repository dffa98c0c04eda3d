"""A problem becomes a run."""
