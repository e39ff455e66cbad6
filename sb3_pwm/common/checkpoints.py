"""Finding the checkpoint that a run can go on from after it was killed."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

KINDS = {"": "zip", "replay_buffer_": "pkl", "vecnormalize_": "pkl"}
"""What SB3's ``CheckpointCallback`` puts into its files' names, and their endings."""


class Checkpoint(NamedTuple):
    """The files that SB3's ``CheckpointCallback`` wrote at a step."""

    steps: int
    """Time steps of the run until then"""
    model: Path
    """For :meth:`PWM.load <sb3_pwm.PWM.load>`"""
    replay_buffer: Path | None
    """For :meth:`PWM.load_replay_buffer <sb3_pwm.PWM.load_replay_buffer>`; None where the run keeps none"""
    vec_normalize: Path | None
    """For ``VecNormalize.load``; None where the run keeps none"""


def latest_checkpoint(
    folder: str | Path,
    name_prefix: str = "rl_model",
    save_replay_buffer: bool | None = None,
    save_vecnormalize: bool | None = None,
) -> Checkpoint | None:
    """
    The newest checkpoint of which everything is there and whole: what a killed run had begun to write does not count.

    :param folder: ``save_path`` of SB3's ``CheckpointCallback``.
    :param name_prefix: Its ``name_prefix``.
    :param save_replay_buffer: Its ``save_replay_buffer``: whether there is to be a replay buffer; None: if another
        checkpoint has one, which leaves open whether the first of all was interrupted.
    :param save_vecnormalize: Its ``save_vecnormalize``, likewise.
    :return: The checkpoint, or None if there is none.
    """
    files: dict[str, dict[int, Path]] = {}
    for kind, ending in KINDS.items():
        pattern = re.compile(rf"{re.escape(f'{name_prefix}_{kind}')}(\d+)_steps\.{ending}")
        matches = ((pattern.fullmatch(path.name), path) for path in Path(folder).glob(f"*.{ending}"))
        files[kind] = {int(match[1]): path for match, path in matches if match is not None}
    asked = {"": True, "replay_buffer_": save_replay_buffer, "vecnormalize_": save_vecnormalize}
    kept = [kind for kind, wanted in asked.items() if (bool(files[kind]) if wanted is None else wanted)]
    for steps in sorted(files[""], reverse=True):
        if all(steps in files[kind] for kind in kept) and _whole(files[""][steps], files["vecnormalize_"].get(steps)):
            found = (files[kind].get(steps) for kind in KINDS)
            return Checkpoint(steps, *found)  # type: ignore[arg-type]
    return None


def _whole(model: Path, vec_normalize: Path | None) -> bool:
    """Replay buffers are not read: PWM writes them, and models, in one step; SB3 does not write statistics so."""
    if not zipfile.is_zipfile(model):
        return False
    try:
        if vec_normalize is not None:
            pickle.loads(vec_normalize.read_bytes())
    except Exception:  # unpickling raises about everything, by where the file ends
        return False
    return True
