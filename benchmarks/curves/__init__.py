"""Learning curves: one run per CSV file, queues of runs, tables and pictures. For `benchmarks/learning_curves.py`."""
