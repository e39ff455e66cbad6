"""Find the checkpoint from which a killed run can be resumed."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

KINDS = {"": "zip", "replay_buffer_": "pkl", "vecnormalize_": "pkl"}
"""Name parts and endings of the files that SB3's ``CheckpointCallback`` writes."""


class Checkpoint(NamedTuple):
    """The files that SB3's ``CheckpointCallback`` wrote at one timestep."""

    steps: int
    """Number of timesteps that the run had made"""
    model: Path
    """File for :meth:`PWM.load <sb3_pwm.PWM.load>`"""
    replay_buffer: Path | None
    """File for :meth:`PWM.load_replay_buffer <sb3_pwm.PWM.load_replay_buffer>`; None if the run saves no buffer"""
    vec_normalize: Path | None
    """File for ``VecNormalize.load``; None if the run saves no statistics"""


def latest_checkpoint(
    folder: str | Path,
    name_prefix: str = "rl_model",
    save_replay_buffer: bool | None = None,
    save_vecnormalize: bool | None = None,
) -> Checkpoint | None:
    """
    Find the newest complete checkpoint. Files that a killed run left unfinished are passed over.

    :param folder: Folder of the checkpoints: ``save_path`` of SB3's ``CheckpointCallback``.
    :param name_prefix: Prefix of the file names: ``name_prefix`` of the callback.
    :param save_replay_buffer: Whether a complete checkpoint has a replay buffer. None: only if some checkpoint in the
        folder has one. If the run was killed during its first checkpoint, None cannot tell: pass True then.
    :param save_vecnormalize: Whether a complete checkpoint has statistics of VecNormalize. None: as above.
    :return: The checkpoint, or None if there is no complete one.
    """
    files: dict[str, dict[int, Path]] = {}
    for kind, ending in KINDS.items():
        pattern = re.compile(rf"{re.escape(f'{name_prefix}_{kind}')}(\d+)_steps\.{ending}")
        matches = ((pattern.fullmatch(path.name), path) for path in Path(folder).glob(f"*.{ending}"))
        files[kind] = {int(match[1]): path for match, path in matches if match is not None}
    requested = {"": True, "replay_buffer_": save_replay_buffer, "vecnormalize_": save_vecnormalize}
    required = [kind for kind, wanted in requested.items() if (bool(files[kind]) if wanted is None else wanted)]
    for steps in sorted(files[""], reverse=True):
        complete = all(steps in files[kind] for kind in required)
        if complete and _is_readable(files[""][steps], files["vecnormalize_"].get(steps)):
            found = (files[kind].get(steps) for kind in KINDS)
            return Checkpoint(steps, *found)  # type: ignore[arg-type]
    return None


def _is_readable(model: Path, vec_normalize: Path | None) -> bool:
    """
    Check whether the files of a checkpoint were written to their end.

    Replay buffers are not read: PWM writes them atomically. SB3 does not write the statistics atomically.
    """
    if not zipfile.is_zipfile(model):
        return False
    try:
        if vec_normalize is not None:
            pickle.loads(vec_normalize.read_bytes())
    except Exception:  # a truncated pickle raises almost any kind of error
        return False
    return True
