"""Timings of updates and of learning, and their tables and pictures. For `benchmarks/speed.py`."""
