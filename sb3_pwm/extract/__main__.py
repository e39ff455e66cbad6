"""``python -m sb3_pwm.extract``, the same command as ``sb3-pwm extract``."""

from sb3_pwm.common.commands import run_command
from sb3_pwm.extract.command import Extract

if __name__ == "__main__":
    run_command(Extract, "sb3-pwm extract")
