"""
PWM in stock rl-zoo3: the algorithm, its environments, its hyperparameters and its Optuna search space.

Importing this package adds them, before or after rl-zoo3 is imported. An installed sb3-pwm imports it automatically
when rl-zoo3 is imported (see startup.py). ``import sb3_pwm.zoo`` is needed if that is switched off, or if Python reads
no .pth files (``pip install --target``, a frozen application).
"""

from sb3_pwm.zoo.extension import ZooFinder, install
from sb3_pwm.zoo.registration import HYPERPARAMS_FILE
from sb3_pwm.zoo.search_space import convert_pwm_params, sample_pwm_params

__all__ = ["HYPERPARAMS_FILE", "ZooFinder", "convert_pwm_params", "install", "sample_pwm_params"]

install()
