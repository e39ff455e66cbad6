"""Timings of updates and of learning, with tables and pictures, for `benchmarks/speed.py`."""
