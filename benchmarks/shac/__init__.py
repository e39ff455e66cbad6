"""Short-horizon actor-critic in differentiable simulators, for `benchmarks/true_dynamics.py`."""
