"""The console command ``sb3-pwm``."""

from collections.abc import Sequence

from sb3_pwm.collect.command import Collect
from sb3_pwm.common.commands import run_command
from sb3_pwm.describe import Describe
from sb3_pwm.extract.command import Extract
from sb3_pwm.pretrain.command import Pretrain

COMMANDS = {"collect": Collect, "describe": Describe, "pretrain": Pretrain, "extract": Extract}
DESCRIPTION = "Learn from offline data: collect it, look at it, pretrain a world model on it, and extract policies."


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run one of the commands.

    :param arguments: Command-line arguments. None: the arguments of this process.
    :raises SystemExit: With code 2 if an option is wrong, or if the command refuses its input, and with code 1 if a
        part of its work failed. One sentence on stderr says why.
    """
    run_command(COMMANDS, "sb3-pwm", arguments, DESCRIPTION)


if __name__ == "__main__":
    main()
