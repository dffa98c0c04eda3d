"""The paper's experiment, its printed tables, and what the paper leaves open."""
