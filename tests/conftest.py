"""Settings that every test shares."""

import os

# Before torch is imported: tests run on small shared machines, and so do the subprocesses they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch as th

import sb3_pwm  # noqa: F401  (registers the environments)

th.set_num_threads(1)
