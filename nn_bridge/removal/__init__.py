"""Removal: from masses to a smaller network (Eq. 15), and what that saves."""
