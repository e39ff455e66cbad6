"""Additions to modules of rl-zoo3, so that rl-zoo3 treats PWM like its own algorithms."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from sb3_pwm.envs import register_envs
from sb3_pwm.pwm import PWM
from sb3_pwm.zoo.search_space import convert_pwm_params, sample_pwm_params


def _find_hyperparams_file() -> Path:
    """:return: File of the hyperparameters: in an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "hyperparams" / "pwm.yml"
    return installed if installed.is_file() else package.parent / "hyperparams" / "pwm.yml"


HYPERPARAMS_FILE = _find_hyperparams_file()
"""File of PWM's hyperparameters for rl-zoo3"""


def _register_algorithm(utils: Any) -> None:
    utils.ALGOS.setdefault("pwm", PWM)
    register_envs()


def _register_search_space(hyperparams_opt: Any) -> None:
    hyperparams_opt.HYPERPARAMS_SAMPLER.setdefault("pwm", sample_pwm_params)
    hyperparams_opt.HYPERPARAMS_CONVERTER.setdefault("pwm", convert_pwm_params)


def _register_hyperparams_file(exp_manager: Any) -> None:
    # rl-zoo3 reads files of its own folder only. If a user has put a pwm.yml there, that file is used.
    stock_files = {str(folder / "hyperparams/pwm.yml") for folder in Path(exp_manager.__file__).parents[:2]}
    manager_class = exp_manager.ExperimentManager
    read = manager_class.read_hyperparameters
    if hasattr(read, "knows_pwm"):
        return

    @functools.wraps(read)
    def read_hyperparameters(self: Any) -> Any:
        if self.config in stock_files and not Path(self.config).exists():
            self.config = str(HYPERPARAMS_FILE)
        return read(self)

    read_hyperparameters.knows_pwm = True  # type: ignore[attr-defined]
    manager_class.read_hyperparameters = read_hyperparameters


REGISTRATIONS: dict[str, Callable[[Any], None]] = {
    "rl_zoo3.utils": _register_algorithm,
    "rl_zoo3.hyperparams_opt": _register_search_space,
    "rl_zoo3.exp_manager": _register_hyperparams_file,
}
"""Function that adds PWM to a module of rl-zoo3, by the name of the module"""


def register(module: ModuleType) -> None:
    """
    Add PWM to a module of rl-zoo3. A second call changes nothing, and an existing entry ``pwm`` is kept.

    :param module: Module whose name is in :data:`REGISTRATIONS`.
    """
    REGISTRATIONS[module.__name__](module)
