"""Imports ``sb3_pwm.zoo`` when rl-zoo3 is imported. Installed as ``sb3_pwm_zoo.pth``: every start of Python runs it.

rl-zoo3 has no plug-in point and fixes its list of algorithms while it is being imported, so sb3-pwm has to be there
first. What runs at every start must be small, must need nothing that Python has not loaded already, and must not fail,
whatever is left of sb3-pwm. setup.py writes this file's text into the .pth file: a start imports no module for it.
"""

import os
import sys


class ZooHook:
    """Import finder that finds nothing itself: it is told when rl-zoo3's first module with an extension is imported."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        # Once sb3_pwm.zoo is there, it has its own finder.
        if fullname != "rl_zoo3.utils" or "sb3_pwm.zoo" in sys.modules:
            return None
        try:
            from sb3_pwm.zoo.extension import ZooFinder
        except Exception as error:
            # Files that were removed by hand are not worth a word; otherwise rl-zoo3 at least keeps its own algorithms.
            if not (isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] == "sb3_pwm"):
                import warnings

                warnings.warn(f"sb3-pwm cannot be imported, so rl-zoo3 has no pwm: {type(error).__name__}: {error}")
            return None
        return ZooFinder.find_spec(fullname, path, target)


if os.environ.get("SB3_PWM_ZOO_HOOK") != "0":
    sys.meta_path.insert(0, ZooHook)
