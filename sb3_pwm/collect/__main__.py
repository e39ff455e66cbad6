"""``python -m sb3_pwm.collect``."""

from sb3_pwm.collect.run import main

if __name__ == "__main__":
    main()
