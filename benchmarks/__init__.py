"""What Segue costs; run by ``make bench``, or one script at a time (``python -m benchmarks.memory``)."""
