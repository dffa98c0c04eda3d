"""evodyn beside its peers: ``make bench``, or ``python -m benchmarks`` where they are installed."""
