"""Offline learners of d3rlpy, which PWM is compared with."""
