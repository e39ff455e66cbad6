"""Behaviors: what acts in the episodes of a data set, and how the command line names it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from sb3_pwm.tasks import env_id

KINDS = ("random", "expert", "policy", "replay")


@dataclasses.dataclass(frozen=True)
class Behavior:
    """
    What acts in an episode.

    :param kind: ``"random"``: uniform actions. ``"expert"``: the scripted policy of Meta-World. ``"policy"``: a trained
        SB3 or PWM model. ``"replay"``: the episodes that such a model saw while it learned.
    :param source: Path of the model (``"policy"``) or of the replay buffer (``"replay"``). A model is the folder of a
        run of rl-zoo3, or a zip file in it. A replay buffer is the folder of a run with ``--save-replay-buffer``, or
        the pkl file. ``{env}`` in the path stands for the environment id of the task.
    :param noise: Standard deviation of Gaussian noise on the actions. Zero for ``"replay"``.
    :param weight: Share of the episodes, relative to the weights of the other behaviors.
    """

    kind: str
    source: str = ""
    noise: float = 0.0
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Behavior:
        """
        Read a behavior as the command line names it.

        :param text: ``random``, ``expert``, ``expert:NOISE``, ``policy:PATH``, ``policy:PATH:NOISE`` or
            ``replay:PATH``. Each may end in ``=WEIGHT``.
        :return: The behavior.
        :raises ValueError: If the text has another form, or a number in it is out of range.
        """
        body, _, weight = text.partition("=")
        kind, *parts = body.split(":")
        try:
            noise = float(parts.pop()) if parts and kind != "random" and _is_number(parts[-1]) else 0.0
            behavior = cls(kind, ":".join(parts), noise, float(weight or 1.0))
        except ValueError:
            behavior = cls("?")
        if not behavior._is_valid():
            raise ValueError(
                f"{text!r} is no behavior: give random, expert[:NOISE], policy:PATH[:NOISE] or replay:PATH, "
                "each with =WEIGHT or without."
            )
        return behavior

    def _is_valid(self) -> bool:
        has_source = self.kind in ("policy", "replay")
        in_range = 0.0 <= self.noise < math.inf and 0.0 < self.weight < math.inf
        return self.kind in KINDS and has_source == bool(self.source) and in_range and not self._is_noisy_replay()

    def _is_noisy_replay(self) -> bool:
        return self.kind == "replay" and self.noise > 0.0

    def source_path(self, task: str) -> Path:
        """
        Get the path of the source for one task.

        :param task: Name of the task.
        :return: The source, with the environment id of the task in place of ``{env}``.
        """
        return Path(self.source.replace("{env}", env_id(task)))

    def __str__(self) -> str:
        parts = [self.kind, self.source, f"{self.noise:g}" if self.noise else ""]
        return ":".join(part for part in parts if part)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
