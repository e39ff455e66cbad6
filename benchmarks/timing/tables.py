"""Tables of timings in JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIZES = ("1M", "5M", "19M", "48M", "317M")
NAMES = {"extraction": "extraction", "world_model": "world model"}
PARTS = (
    *("environment", "acting", "buffer: add", "buffer: sample"),
    *("world model", "actor and critics", "everything else"),
)
UPDATES_HEAD = (
    "| size | batch | H | options | extraction update | plain | speed-up | world-model update | plain | speed-up "
    "| of the matrix-product rate | peak memory |\n|" + "---|" * 12
)
LEARN_HEAD = "| env | environments | options | steps/s | " + " | ".join(PARTS) + " |\n|" + "---|" * (4 + len(PARTS))
# Older names in the files of version 0.1.0
RENAMED = {
    "checkpoint_rollout": "gradient_checkpointing",
    "critic_epochs": "n_critic_epochs",
    "critic_minibatches": "n_critic_minibatches",
}


def read(path: Path) -> dict[str, Any]:
    """:param path: JSON file of timings. :return: The content of the file, under the present names."""
    content = json.loads(path.read_text())
    results = [{RENAMED.get(name, name): value for name, value in result.items()} for result in content["results"]]
    return {**content, "results": results}


def updates_row(result: dict[str, Any]) -> str:
    """:param result: Timings of a configuration's updates. :return: A line of the table."""
    options = ["compiled"] if result["compile"] else []
    options += ["bfloat16"] if result["precision"] == "bfloat16" else []
    options += ["checkpointed"] if result["gradient_checkpointing"] else []
    cells = [result["size"], result["batch"], result["horizon"], ", ".join(options) or "-"]
    for name in NAMES:
        cells += [f"{result[f'{name}_ms']:.1f} ms"]
        if f"plain_{name}_ms" in result:
            cells += [f"{result[f'plain_{name}_ms']:.1f} ms", f"**{result[f'{name}_speedup']:.2f}**"]
        else:
            cells += ["-", "-"]
    cells += [f"{result['extraction_of_matrix_product_rate']:.0%} of {result['matrix_product_gflops']:.0f} GFLOP/s"]
    cells += [f"{result['peak_memory_mib']:.0f} MiB"]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def learn_row(result: dict[str, Any]) -> str:
    """:param result: Timings of ``learn()``. :return: A line of the table."""
    options = ["compiled"] if result["compile"] else []
    if result["subprocesses"]:
        options += ["subprocesses", "overlapped" if result["overlap"] else "not overlapped"]
    cells = [result["env"], result["n_envs"], ", ".join(options) or "-", f"{result['steps_per_second']:.1f}"]
    cells += [f"{result['shares'].get(part, 0.0):.0%}" for part in PARTS]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def tables(out: Path) -> str:
    """:param out: Folder of the JSON files. :return: A Markdown table for each of them."""
    parts = []
    for name, head, row in (("updates", UPDATES_HEAD, updates_row), ("learn", LEARN_HEAD, learn_row)):
        for path in sorted(out.glob(f"{name}-*.json")):
            content = read(path)
            parts.append(f"\n`{content['command']}` ({content['device']}, torch {content['torch']})\n\n{head}")
            parts += [row(result) for result in content["results"]]
    return "\n".join(parts)
