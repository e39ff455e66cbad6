"""``python -m sb3_pwm.pretrain``."""

from sb3_pwm.pretrain.command import main

if __name__ == "__main__":
    main()
