"""Learning curves: runs, queues of runs, tables and pictures, for `benchmarks/learning_curves.py`."""
