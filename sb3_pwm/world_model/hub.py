"""World models as repositories of the Hugging Face Hub: the file, its configuration as JSON, and a model card."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch as th
from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import nn

from sb3_pwm.common.files import atomic_write
from sb3_pwm.common.version import __version__
from sb3_pwm.world_model.config import WorldModelConfig

PAPER = "https://arxiv.org/abs/2407.02466"

MODEL_CARD = """\
---
{{ card_data }}
---

# {{ repo_id | default("World model", true) }}

A latent world model of [PWM]({{ paper_url }}), made with sb3-pwm {{ version }}. A policy for continuous control is
extracted from it by first-order gradients through short latent rollouts.

| | |
|---|---|
| Tasks | {% if config.tasks %}{{ config.tasks | length }}: {{ config.tasks | join(", ") }}{% else %}one{% endif %} |
| Parameters | {{ "{:,}".format(n_parameters) }} |
| Observation | {{ config.observation_dim }} numbers{{ ", normalized by the model" if config.normalize_observations }} |
| Action | {{ config.action_dim }} numbers in [-1, 1] |
| Latent | {{ config.latent_dim }} numbers{{ ", SimNorm in groups of %d" % config.simnorm_dim if config.simnorm_dim }} |
| Encoder | {{ config.encoder_layers }} layers, {{ config.encoder_dim }} wide |
| Dynamics, reward | 3 layers, {{ config.mlp_dim }} wide |
| Reward | {{ "%d two-hot bins" % config.num_bins if config.reward_head == "two_hot" else "a scalar" }} |
| Termination | {{ "predicted" if config.termination else "not predicted: no episode of the data ended early" }} |
| License | {{ license | default("[More Information Needed]", true) }} |

## Use

```python
from sb3_pwm import PWM, WorldModel

world_model = WorldModel.from_pretrained("{{ repo_id | default("path/to/this/folder", true) }}")
# env is an environment of the task, data is a data set of it
model = PWM("MlpPolicy", env, world_model=world_model, dataset=data, offline=True{% if config.tasks %}, \
task="{{ config.tasks[0] }}"{% endif %})
model.learn(4_000)  # updates in the world model; the environment is not stepped
model.save("policy")
```

## Training data

[More Information Needed]
"""
"""Template of the model card, in Jinja"""

Model = TypeVar("Model", bound="HubModel")


# A base class cannot be imported late: huggingface_hub adds 0.15 s and 7 MB to the 1.8 s of `import sb3_pwm`.
class HubModel(
    nn.Module,
    ModelHubMixin,
    library_name="sb3-pwm",
    pipeline_tag="reinforcement-learning",
    tags=["reinforcement-learning", "model-based-rl", "world-model", "pwm", "stable-baselines3"],
    paper_url=PAPER,
    model_card_template=MODEL_CARD,
):
    """
    A model that can be shared through the Hugging Face Hub, by the methods of huggingface_hub's mixin.

    ``save_pretrained(folder)`` writes ``model.safetensors``, which :meth:`WorldModel.load` reads too, ``config.json``
    for programs that show or search repositories, and ``README.md``, the model card, if there is none yet.
    """

    config: WorldModelConfig

    def save(self, path: str | Path) -> None:
        """:param path: File to write the model and its configuration to."""
        raise NotImplementedError

    @classmethod
    def load(cls: type[Model], path: str | Path, device: th.device | str = "cpu") -> Model:
        """:param path: File that :meth:`save` wrote. :param device: Device of the parameters. :return: The model."""
        raise NotImplementedError

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory / SAFETENSORS_SINGLE_FILE)
        # The mixin would write the configuration of the constructor, which lacks what was added to the model since.
        with atomic_write(save_directory / CONFIG_NAME) as file:
            file.write(json.dumps(dataclasses.asdict(self.config), indent=2).encode())

    def generate_model_card(self, license: str | None = None, repo_id: str | None = None, **kwargs: Any) -> ModelCard:
        """
        Make the model card. ``save_pretrained`` and :meth:`push_to_hub` take its arguments as ``model_card_kwargs``.

        :param license: The Hub's identifier of the license, such as ``"mit"``.
        :param repo_id: Name of the repository, for the heading and the example.
        :param kwargs: Further variables of the template.
        :return: The card.
        """
        card = super().generate_model_card(
            config=self.config,
            n_parameters=sum(parameter.numel() for parameter in self.parameters()),
            version=__version__,
            license=license,
            repo_id=repo_id,
            **kwargs,
        )
        card.data.license = license  # type: ignore[attr-defined]
        return card

    @classmethod
    def from_pretrained(cls: type[Model], pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Model:
        """
        Read a model from a folder that ``save_pretrained`` wrote, or from the Hugging Face Hub.

        The configuration in the model file counts; ``config.json`` is for other programs.

        :param pretrained_model_name_or_path: The folder, or the name of the repository, ``"owner/name"``.
        :param kwargs: ``device`` of the parameters, and huggingface_hub's ``revision``, ``token``, ``cache_dir``,
            ``force_download`` and ``local_files_only``.
        :return: The model.
        :raises FileNotFoundError: If there is no such folder and no such repository, revision or file.
        :raises PermissionError: If the repository is open to selected users only.
        :raises ConnectionError: If the Hub cannot be reached, and no copy is in the cache.
        :raises ValueError: If a file is damaged, or is not a world model. The message names the file and the reason.
        """
        name = pretrained_model_name_or_path
        if Path(name).is_file():
            raise ValueError(f"{name} is a file, and from_pretrained() reads folders: use load().")
        with _readable_download_errors(str(name), kwargs.get("revision")):
            # The mixin gets config.json, which the Hub counts as a download. It decodes no field if there is a config.
            return super().from_pretrained(name, config=None, **kwargs)

    @classmethod
    def _from_pretrained(
        cls: type[Model],
        *,
        model_id: str,
        device: th.device | str = "cpu",
        config: None = None,
        **download: Any,
    ) -> Model:
        if Path(model_id).is_dir():
            return cls.load(Path(model_id, SAFETENSORS_SINGLE_FILE), device)
        return cls.load(hf_hub_download(model_id, SAFETENSORS_SINGLE_FILE, **download), device)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """
        Upload the model, its configuration and a new model card to the Hugging Face Hub, in one commit.

        :param repo_id: Name of the repository, ``"owner/name"``. It is made if it does not exist.
        :param kwargs: huggingface_hub's ``commit_message``, ``private``, ``token``, ``branch``, ``create_pr``,
            ``allow_patterns``, ``ignore_patterns`` (``"README.md"`` keeps the card of the repository),
            ``delete_patterns``, and ``model_card_kwargs``, see :meth:`generate_model_card`.
        :return: URL of the commit.
        :raises ValueError: If ``repo_id`` is not a name.
        :raises PermissionError: If the Hub refuses the model.
        :raises ConnectionError: If the Hub cannot be reached.
        """
        kwargs["model_card_kwargs"] = {"repo_id": repo_id, **(kwargs.get("model_card_kwargs") or {})}
        with _readable_upload_errors(repo_id):
            return super().push_to_hub(repo_id, **kwargs)


@contextmanager
def _readable_download_errors(name: str, revision: str | None) -> Iterator[None]:
    """Raise one sentence from an error of huggingface_hub, while a repository of a given name is read."""
    try:
        yield
    except HFValidationError as error:
        raise FileNotFoundError(
            f"There is no folder {name!r}, and a repository of the Hugging Face Hub has a name like owner/name."
        ) from error
    except GatedRepoError as error:
        raise PermissionError(
            f"The repository {name!r} gives its files to selected users: ask for access on https://huggingface.co/{name}."
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no folder {name!r}, and no repository of this name on the Hugging Face Hub (a private one needs "
            "a token: run `hf auth login`)."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"The repository {name!r} has no revision {revision!r}.") from error
    except RemoteEntryNotFoundError as error:
        raise FileNotFoundError(
            f"The repository {name!r} is not a world model's: it has no file {SAFETENSORS_SINGLE_FILE}."
        ) from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"There is no folder {name!r} and no copy of such a repository in the cache, and the Hugging Face Hub did "
            "not answer: check the network (HF_HUB_OFFLINE and local_files_only keep it from being asked)."
        ) from error
    except HTTPError as error:
        raise ConnectionError(f"The download of {name!r} from the Hugging Face Hub failed: {_reason(error)}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{CONFIG_NAME} in {name} is damaged: {error}.") from error


@contextmanager
def _readable_upload_errors(repo_id: str) -> Iterator[None]:
    """Raise one sentence from an error of huggingface_hub, while a repository of a given name is written."""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"repo_id={repo_id!r} is not a name on the Hugging Face Hub, such as owner/name.") from error
    except HfHubHTTPError as error:
        raise PermissionError(
            f"The Hugging Face Hub refused {repo_id!r} (is there a token with write access? run `hf auth login`): "
            f"{_reason(error)}"
        ) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise ConnectionError(f"{repo_id!r} was not uploaded to the Hugging Face Hub: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """:return: Message of an error, on one line."""
    return " ".join(str(error).split())
