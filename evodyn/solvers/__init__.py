"""Numerical methods that know arrays and a right-hand side, and not what it means."""
