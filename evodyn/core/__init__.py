"""What every wing stands on: arrays, checks, specifications, generators, processes and files."""
