"""One function over many configurations."""
