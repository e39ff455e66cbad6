"""PWM in stock rl-zoo3: the algorithm, its environments, its hyperparameters and its Optuna search space.

Importing this package is all it takes, before or after rl-zoo3's own import. An installed sb3-pwm has it imported by
itself when rl-zoo3 is (see startup.py); where that is switched off, or Python reads no start-up files (``pip install
--target``, a frozen application), ``import sb3_pwm.zoo`` is the explicit way.
"""

from sb3_pwm.zoo.extension import ZooFinder, install
from sb3_pwm.zoo.registration import HYPERPARAMS_FILE
from sb3_pwm.zoo.search_space import convert_pwm_params, sample_pwm_params

__all__ = ["HYPERPARAMS_FILE", "ZooFinder", "convert_pwm_params", "install", "sample_pwm_params"]

install()
