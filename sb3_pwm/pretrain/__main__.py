"""``python -m sb3_pwm.pretrain``, the same command as ``sb3-pwm pretrain``."""

from sb3_pwm.common.commands import run_command
from sb3_pwm.pretrain.command import RENAMED, Pretrain

if __name__ == "__main__":
    run_command(Pretrain, "sb3-pwm pretrain", renamed=RENAMED)
