"""The console command ``sb3-pwm``."""

from collections.abc import Sequence

from sb3_pwm.collect.command import RENAMED as RENAMED_IN_COLLECT
from sb3_pwm.collect.command import Collect
from sb3_pwm.common.commands import run_command
from sb3_pwm.describe import Describe
from sb3_pwm.extract.command import RENAMED as RENAMED_IN_EXTRACT
from sb3_pwm.extract.command import Extract
from sb3_pwm.pretrain.command import RENAMED as RENAMED_IN_PRETRAIN
from sb3_pwm.pretrain.command import Pretrain

COMMANDS = {"collect": Collect, "describe": Describe, "pretrain": Pretrain, "extract": Extract}
DESCRIPTION = (
    "World models for Stable-Baselines3: collect data, look at it, pretrain a world model on it, and extract policies."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run one of the commands.

    :param arguments: Command-line arguments; None: those of this process.
    :raises SystemExit: With code 2 if an option or what it names is wrong.
    """
    renamed = {**RENAMED_IN_COLLECT, **RENAMED_IN_PRETRAIN, **RENAMED_IN_EXTRACT}
    run_command(COMMANDS, "sb3-pwm", arguments, renamed, DESCRIPTION)


if __name__ == "__main__":
    main()
