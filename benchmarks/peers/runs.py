"""One run of a peer, and the files of its results."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ALGORITHMS = {"td3bc": "TD3+BC", "iql": "IQL", "bc": "BC", "bc10": "BC, best tenth"}
"""Name of each peer in tables"""
OWN_LENGTH = 500_000
"""Number of updates in d3rlpy's own reproductions of TD3+BC and IQL"""
COLUMNS = ("task", "algorithm", "limit", "seed", "update", "cpu_seconds", "return", "returns")


@dataclasses.dataclass(frozen=True)
class PeerRun:
    """
    One run of a peer. Exactly one of ``updates`` and ``cpu_seconds`` is given.

    :param algorithm: Key of :data:`ALGORITHMS`.
    :param env: Environment id.
    :param data: Sources of the data, see :func:`peers.data.load_task`.
    :param task: Name of the task in the data. None: the only one.
    :param seed: Seed of the learner. Evaluations have fixed seeds.
    :param updates: Number of updates at which the run ends.
    :param cpu_seconds: Processor time of learning in seconds, at which the run ends.
    :param eval_freq: Number of updates between evaluations.
    """

    algorithm: str
    env: str
    data: tuple[str, ...]
    task: str | None
    seed: int
    updates: int | None
    cpu_seconds: float | None
    eval_freq: int

    @property
    def limit(self) -> str:
        """Length of the run, such as ``1800s`` or ``500000``."""
        return str(self.updates) if self.cpu_seconds is None else f"{self.cpu_seconds:g}s"

    @property
    def name(self) -> str:
        """Environment, algorithm, length and seed, for messages."""
        return f"{self.env} {self.algorithm} {self.limit} seed {self.seed}"

    def csv_path(self, out: Path) -> Path:
        """:param out: Folder of the results. :return: File of the evaluations."""
        return csv_path(out, self.env, self.algorithm, self.limit, self.seed)

    def ends(self, update: int, cpu_seconds: float) -> bool:
        """:return: Whether the run is over after so many updates and so much processor time."""
        if self.cpu_seconds is not None:
            return cpu_seconds >= self.cpu_seconds
        assert self.updates is not None
        return update >= self.updates

    def is_finished(self, out: Path) -> bool:
        """
        :param out: Folder of the results.
        :return: Whether the results are complete, and of the same data and evaluations.
        """
        path = self.csv_path(out)
        description = path.with_suffix(".json")
        if not path.exists() or not description.exists():
            return False
        before, now = json.loads(description.read_text())["run"], json.loads(json.dumps(dataclasses.asdict(self)))
        rows = read_rows(path)
        return before == now and len(rows) > 0 and self.ends(rows["update"].iloc[-1], rows["cpu_seconds"].iloc[-1])

    @classmethod
    def from_json(cls, text: str) -> PeerRun:
        """:param text: JSON of the fields. :return: The run."""
        fields = json.loads(text)
        return cls(**{**fields, "data": tuple(fields["data"])})


def csv_path(out: Path, env: str, algorithm: str, limit: str, seed: int) -> Path:
    """:return: File of the evaluations of a run."""
    return out / env / f"{algorithm}-{limit}-seed{seed}.csv"


def make_row(
    env: str, algorithm: str, limit: str, seed: int, update: int, cpu_seconds: float | None, returns: Sequence[float]
) -> dict[str, Any]:
    """:return: The line of an evaluation, see :data:`COLUMNS`. ``returns`` holds all episodes as a JSON list."""
    seconds = None if cpu_seconds is None else round(cpu_seconds, 2)
    each = json.dumps([round(value, 3) for value in returns])
    row = (env, algorithm, limit, seed, update, seconds, round(float(np.mean(returns)), 3), each)
    return dict(zip(COLUMNS, row, strict=True))


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Append a line to a CSV file, with a header if the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([row], columns=COLUMNS).to_csv(path, mode="a", header=not path.exists(), index=False)


def read_rows(path: Path) -> pd.DataFrame:
    """:return: The evaluations of a run. A line that a killed run left unfinished is dropped."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    return pd.read_csv(io.StringIO("\n".join([header, *(line for line in lines if line.endswith((']"', "]")))])))
