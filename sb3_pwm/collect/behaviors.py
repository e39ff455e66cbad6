"""Behaviors: what acts in the episodes of a data set, and how the command line names it."""

from __future__ import annotations

import dataclasses
import math

KINDS = ("random", "expert", "policy", "replay")


@dataclasses.dataclass(frozen=True)
class Behavior:
    """
    What acts in an episode.

    :param kind: ``"random"``: uniform actions. ``"expert"``: the scripted policy of a task of Meta-World, or the
        controller of ``muscle-humanoid-balance``. ``"policy"``: a trained SB3 or PWM model. ``"replay"``: the episodes
        that such a model saw while it learned.
    :param source: Path of the model (``"policy"``) or of the replay buffer (``"replay"``). A model is the zip file of
        any algorithm of SB3 or sb3-contrib, or the folder of a run of rl-zoo3. If the file does not say which
        algorithm it is of, name it before the path: ``"sac:my_model.zip"``. A replay buffer is the folder of a run
        with ``--save-replay-buffer``, or the pkl file. ``{env}`` in the path stands for the environment id of the task.
    :param noise: Standard deviation of Gaussian noise on the actions, for actions that are scaled to [-1, 1]. Several
        values take turns, one for each episode of the behavior. Zero for ``"replay"``.
    :param weight: Share of the episodes, relative to the weights of the other behaviors.
    :param noisy_share: Share of the steps that have noise. Below 1 it comes in bursts. The steps between them show how
        the policy recovers, in actions without noise, which can be imitated (as with DART, arXiv 1703.09327).
    """

    kind: str
    source: str = ""
    noise: float | tuple[float, ...] = 0.0
    weight: float = 1.0
    noisy_share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Behavior:
        """
        Read a behavior as the command line names it.

        :param text: ``random``, ``expert``, ``expert:NOISE``, ``policy:PATH``, ``policy:PATH:NOISE`` or
            ``replay:PATH``. ``NOISE`` is a number, or several with commas between them; it may end in ``@SHARE``, the
            share of the steps that have noise. ``PATH`` of a policy may have the name of its algorithm and a colon
            before it. Each text may end in ``=WEIGHT``.
        :return: The behavior.
        :raises ValueError: If the text has another form, or a number in it is out of range.
        """
        body, _, weight = text.partition("=")
        kind, *parts = body.split(":")
        try:
            has_noise = bool(parts) and kind != "random" and _is_noise(parts[-1])
            noise, share = _parse_noise(parts.pop()) if has_noise else (0.0, 1.0)
            behavior = cls(kind, ":".join(parts), noise, float(weight or 1.0), share)
        except ValueError:
            behavior = cls("?")
        if not behavior._is_valid():
            raise ValueError(
                f"{text!r} is no behavior: give random, expert[:NOISE], policy:PATH[:NOISE] or replay:PATH, "
                "each with =WEIGHT or without. NOISE is a number, or several such as 0,0.1,0.3, and may end in @SHARE, "
                "above 0 and at most 1."
            )
        return behavior

    @property
    def noises(self) -> tuple[float, ...]:
        """Standard deviations of the noise, which take turns over the episodes of the behavior."""
        return (self.noise,) if isinstance(self.noise, int | float) else tuple(self.noise)

    def _is_valid(self) -> bool:
        has_source = self.kind in ("policy", "replay")
        in_range = (
            all(0.0 <= noise < math.inf for noise in self.noises)
            and 0.0 < self.weight < math.inf
            and 0.0 < self.noisy_share <= 1.0
        )
        return self.kind in KINDS and has_source == bool(self.source) and in_range and not self._is_noisy_replay()

    def _is_noisy_replay(self) -> bool:
        return self.kind == "replay" and self.noise != 0.0

    def source_of(self, env_id: str) -> str:
        """
        Get the source for one environment.

        :param env_id: Environment id of the task.
        :return: The source, with the environment id in place of ``{env}``. A slash in the id becomes a hyphen, as in
            the folders of rl-zoo3.
        """
        return self.source.replace("{env}", env_id.replace("/", "-"))

    def __str__(self) -> str:
        noise = ",".join(f"{noise:g}" for noise in self.noises) if self.noise else ""
        noise += f"@{self.noisy_share:g}" if noise and self.noisy_share < 1.0 else ""
        return ":".join(part for part in (self.kind, self.source, noise) if part)


def _parse_noise(text: str) -> tuple[float | tuple[float, ...], float]:
    """
    :return: The noise, and the share of the steps that have it.
    :raises ValueError: If the text is not one number, or several with commas between them, and perhaps ``@SHARE``.
    """
    text, at, share = text.partition("@")
    noises = tuple(float(part) for part in text.split(","))
    return noises[0] if len(noises) == 1 else noises, float(share) if at else 1.0


def _is_noise(text: str) -> bool:
    try:
        _parse_noise(text)
    except ValueError:
        return False
    return True
