"""A live table of extractions in the terminal."""

import math
from collections.abc import MutableSequence, Sequence
from multiprocessing.sharedctypes import RawArray
from typing import Any

from rich.live import Live
from rich.table import Table

from sb3_pwm.extract.jobs import Job, Outcome


class LiveTable:
    """
    Tell what runs, what is done and what it scores: a live table of the running extractions, and a line for each
    finished one. Where the output is no terminal, there are only the lines. Use it as a context manager.

    :param jobs: The extractions.
    :param updates: Number of updates of an extraction.
    """

    def __init__(self, jobs: Sequence[Job], updates: int):
        self.jobs = jobs
        self.updates = updates
        self.outcomes: list[Outcome] = []
        """What became of the finished extractions"""
        self.progress: MutableSequence[float] = RawArray("d", [math.nan] * (2 * len(jobs)))
        """Memory that other processes can write their progress into"""
        self._live = Live(get_renderable=self.render, refresh_per_second=2, transient=True)

    def __enter__(self) -> "LiveTable":
        self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    @property
    def failed(self) -> list[Job]:
        """Extractions that failed"""
        return [outcome.job for outcome in self.outcomes if outcome.error]

    def report(self, outcome: Outcome) -> None:
        """
        Print a line about a finished extraction.

        :param outcome: What became of it.
        """
        self.outcomes.append(outcome)
        result = f"failed: {outcome.error}" if outcome.error else f"return {outcome.score:.1f}"
        print(f"{outcome.job}: {result}", flush=True)

    def render(self) -> Table:
        """:return: The table of the running extractions."""
        finished = {outcome.job for outcome in self.outcomes}
        unfinished = [job for job in self.jobs if job not in finished]
        table = Table("task", "seed", "updates", "return", caption_justify="left", min_width=60)
        for job in unfinished:
            updates, last_return = self.progress[2 * job.index : 2 * job.index + 2]
            if not math.isnan(updates):
                score = "" if math.isnan(last_return) else f"{last_return:.1f}"
                table.add_row(job.task, str(job.seed), f"{updates:,.0f} of {self.updates:,}", score)
        waiting = len(unfinished) - len(table.rows)
        done = len(finished) - len(self.failed)
        table.caption = f"{done} done, {len(self.failed)} failed, {len(table.rows)} running, {waiting} waiting"
        return table
