"""``python -m sb3_pwm.pretrain``, the same command as ``sb3-pwm pretrain``. torchrun needs this form."""

from sb3_pwm.common.commands import run_command
from sb3_pwm.pretrain.command import Pretrain

if __name__ == "__main__":
    run_command(Pretrain, "sb3-pwm pretrain")
