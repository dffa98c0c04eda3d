"""What is measured: each module has a ``measured(options)`` that yields outcomes."""
