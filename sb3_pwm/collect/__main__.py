"""``python -m sb3_pwm.collect``, the same command as ``sb3-pwm collect``."""

from sb3_pwm.collect.command import Collect
from sb3_pwm.common.commands import run_command

if __name__ == "__main__":
    run_command(Collect, "sb3-pwm collect")
