"""
Import hook that imports ``sb3_pwm.zoo`` when rl-zoo3 is imported.

rl-zoo3 has no plug-in point, and reads its list of algorithms when it is imported. So sb3-pwm must be imported before.
setup.py writes the text of this file into ``sb3_pwm_zoo.pth``, which every start of Python executes. Therefore it must
be short, must import only what Python has loaded already, and must not fail, even if files of sb3-pwm are missing.
"""

import os
import sys


class ZooHook:
    """Import finder that finds no modules itself. It notices when rl-zoo3 is imported."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        # When sb3_pwm.zoo is imported, its own finder does the work.
        if fullname != "rl_zoo3.utils" or "sb3_pwm.zoo" in sys.modules:
            return None
        try:
            from sb3_pwm.zoo.extension import ZooFinder
        except Exception as error:
            # No warning if the files of sb3-pwm were removed. In any case, rl-zoo3 keeps its own algorithms.
            if not (isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] == "sb3_pwm"):
                import warnings  # not at the top: every start of Python would import it

                warnings.warn(f"sb3-pwm cannot be imported, so rl-zoo3 has no pwm: {type(error).__name__}: {error}")
            return None
        return ZooFinder.find_spec(fullname, path, target)


if os.environ.get("SB3_PWM_ZOO_HOOK") != "0":
    sys.meta_path.insert(0, ZooHook)
