"""World models on the Hugging Face Hub. A server on this machine stands in for it."""

import json
import os
import re
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from random_env import RandomEnv
from safetensors.torch import load_file

from sb3_pwm import PWM, OfflineDataset, WorldModel, WorldModelConfig

CONFIG = WorldModelConfig(
    observation_dim=4, action_dim=2, latent_dim=16, encoder_dim=12, mlp_dim=12, termination=True, tasks=("walk", "run")
)
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def saved(tmp_path):
    """A model, and the folder that it was saved in."""
    model, folder = WorldModel(CONFIG), tmp_path / "saved"
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def connect(monkeypatch, tmp_path):
    """Let huggingface_hub take a server for the Hub, with an empty cache and without a token."""

    def connect(port):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        url, constants = f"http://127.0.0.1:{port}", "huggingface_hub.constants."
        monkeypatch.setattr(constants + "ENDPOINT", url)
        monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants + "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants + "HF_TOKEN_PATH", str(tmp_path / "token"))
        huggingface_hub.close_session()

    yield connect
    huggingface_hub.close_session()


@pytest.fixture
def hub(connect):
    """The files of the only repository of a Hub, ``owner/walk``, by name. The repository ``owner/gated`` is gated."""
    files = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            owner, name, _, revision, file = self.path.strip("/").split("/")
            if (owner, name) == ("owner", "gated"):
                self.refuse(403, "GatedRepo")
            elif (owner, name) != ("owner", "walk"):
                self.refuse(404, "RepoNotFound")
            elif revision != "main":
                self.refuse(404, "RevisionNotFound")
            elif file not in files:
                self.refuse(404, "EntryNotFound")
            else:
                self.send_response(200)
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("ETag", f'"{file}"')
                self.send_header("Content-Length", str(len(files[file])))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(files[file])

        do_HEAD = do_GET

        def refuse(self, status, code):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    connect(server.server_port)
    yield files
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def no_network(connect, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # huggingface_hub tries again for half a minute
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nothing listens
        connect(unused.getsockname()[1])
        yield


@pytest.fixture
def go_offline(monkeypatch):
    return lambda: monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def same(one, other):
    assert one.config == other.config
    for name, value in one.state_dict().items():
        assert th.equal(other.state_dict()[name], value), name


def test_folder_is_read_in_a_new_process(saved):
    model, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == FILES
    code = """
import sys
import torch as th
from safetensors.torch import save_file
from sb3_pwm import WorldModel

model = WorldModel.from_pretrained(sys.argv[1])
z = model.encode(th.full((1, 4), 0.5), "run")
save_file({"latent": z, "reward": model.reward(z, th.ones(1, 2), "run")}, sys.argv[1] + "/predicted")
model.save_pretrained(sys.argv[1] + "/again")
"""
    root = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env={**os.environ, "PYTHONPATH": root})
    predicted = load_file(folder / "predicted")
    z = model.encode(th.full((1, 4), 0.5), "run")
    assert th.equal(predicted["latent"], z)
    assert th.equal(predicted["reward"], model.reward(z, th.ones(1, 2), "run"))
    for name in FILES:
        assert (folder / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_file_in_the_folder_is_a_world_model_as_any_other(saved):
    model, folder = saved
    same(WorldModel.load(folder / "model.safetensors"), model)
    model.save(folder / "same.safetensors")
    assert (folder / "same.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_what_was_added_to_a_model_is_in_its_folder(saved):
    model, folder = saved
    model.add_task("jump", like="run")
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["tasks"] == ["walk", "run", "jump"]
    same(WorldModel.from_pretrained(folder), model)


def test_card_describes_the_model(saved):
    _, folder = saved
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "sb3-pwm"
    assert card.data.pipeline_tag == "reinforcement-learning"
    assert {"world-model", "model-based-rl", "stable-baselines3"} <= set(card.data.tags)
    assert card.data.license is None
    # 2 tasks x 96; layers of 4 + 96 -> 12 -> 16; of 16 + 2 + 96 -> 12 -> 12 -> 16 (dynamics) or 101 (reward); of
    # 16 + 96 -> 12 -> 12 -> 1 (termination). A hidden layer, and each output of a SimNorm, has a LayerNorm.
    hidden = 13 * 12 + 2 * 12
    encoder = 101 * 12 + 24 + 13 * 16 + 32
    dynamics = 115 * 12 + 24 + hidden + 13 * 16 + 32
    reward = 115 * 12 + 24 + hidden + 13 * 101
    termination = 113 * 12 + 24 + hidden + 13
    parameters = 192 + encoder + dynamics + reward + termination
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", card.text, re.MULTILINE))
    assert rows == {
        "Tasks": "2: walk, run",
        "Parameters": f"{parameters:,}",
        "Observation": "4 numbers, normalized by the model",
        "Action": "2 numbers in [-1, 1]",
        "Latent": "16 numbers, SimNorm in groups of 8",
        "Encoder": "2 layers, 12 wide",
        "Dynamics, reward": "3 layers, 12 wide",
        "Reward": "101 two-hot bins",
        "Termination": "predicted",
        "License": "[More Information Needed]",
    }


def test_card_of_a_licensed_single_task_model(tmp_path):
    config = WorldModelConfig(observation_dim=4, action_dim=2, latent_dim=16, reward_head="scalar")
    WorldModel(config).save_pretrained(tmp_path, model_card_kwargs={"license": "mit"})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit"
    for line in ("| Tasks | one |", "| License | mit |", "| Reward | a scalar |"):
        assert line in card.text.splitlines()
    assert "task=" not in card.text


def test_edited_card_is_kept(saved):
    model, folder = saved
    (folder / "README.md").write_text("Trained on ...")
    model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "Trained on ..."


def test_example_of_the_card_runs(saved, tmp_path, monkeypatch):
    _, folder = saved
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert 'from_pretrained("path/to/this/folder")' in code
    code = code.replace("path/to/this/folder", str(folder)).replace("4_000", "1")
    monkeypatch.chdir(tmp_path)
    steps, rng = 40, np.random.default_rng(0)
    data = OfflineDataset.from_arrays(
        rng.normal(size=(steps, 4)),
        rng.uniform(-1, 1, (steps, 2)),
        rng.normal(size=steps),
        np.zeros(steps, bool),
        np.arange(1, steps + 1) % 20 == 0,
        task="walk",
    )
    exec(code, {"env": RandomEnv(spaces.Box(-1.0, 1.0, (4,), np.float32)), "data": data})
    assert PWM.load(tmp_path / "policy").world_model.config == CONFIG


def test_model_comes_from_the_hub_and_then_from_the_cache(saved, hub, go_offline):
    model, folder = saved
    hub.update({name: (folder / name).read_bytes() for name in FILES})
    same(WorldModel.from_pretrained("owner/walk"), model)
    go_offline()
    same(WorldModel.from_pretrained("owner/walk"), model)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("owner/nothing", {}, r"There is no folder 'owner/nothing', and no repository of this name on the Hugging"),
        ("a/folder/nowhere", {}, r"There is no folder 'a/folder/nowhere', and a repository .* has a name like owner/"),
        ("owner/walk", {"revision": "v2"}, r"The repository 'owner/walk' has no revision 'v2'\."),
        ("owner/walk", {}, r"'owner/walk' is not a world model's: it has no file model\.safetensors\."),
    ],
)
def test_what_is_not_on_the_hub(hub, name, options, message):
    hub["config.json"] = b"{}"
    with pytest.raises(FileNotFoundError, match=message) as error:
        WorldModel.from_pretrained(name, **options)
    assert "\n" not in str(error.value)
    assert type(error.value.__cause__).__module__.startswith("huggingface_hub.")


def test_gated_repository(hub):
    with pytest.raises(PermissionError, match=r"'owner/gated' gives its files to selected users"):
        WorldModel.from_pretrained("owner/gated")


@pytest.mark.parametrize("offline", [False, True])
def test_no_network(no_network, go_offline, offline):
    if offline:
        go_offline()
    with pytest.raises(ConnectionError, match=r"^There is no folder 'owner/walk' .* did not answer: check the netw"):
        WorldModel.from_pretrained("owner/walk")
    with pytest.raises(ConnectionError, match=r"^'owner/walk' was not uploaded to the Hugging Face Hub: "):
        WorldModel(CONFIG).push_to_hub("owner/walk")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", None, r"There is no world model file .*model\.safetensors"),
        ("model.safetensors", b"\0" * 30, r"model\.safetensors is damaged, or is no safetensors file"),
        ("config.json", b'{"tasks": [', r"config\.json in .*saved is damaged: Expecting value"),
        ("config.json", b"\xff", r"config\.json in .*saved is damaged: "),
    ],
)
def test_damaged_folder(saved, name, content, message):
    _, folder = saved
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        WorldModel.from_pretrained(folder)


def test_damaged_file_of_the_hub(saved, hub):
    _, folder = saved
    hub["model.safetensors"] = (folder / "model.safetensors").read_bytes()[:-100]
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        WorldModel.from_pretrained("owner/walk")


def test_a_file_is_no_folder(saved):
    _, folder = saved
    with pytest.raises(ValueError, match=r"is a file, and from_pretrained\(\) reads folders: use load\(\)"):
        WorldModel.from_pretrained(folder / "model.safetensors")


class FakeApi:
    """Takes the place of HfApi: what it is asked to upload."""

    error: Exception | None = None

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, **_):
        if FakeApi.error is not None:
            raise FakeApi.error
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, folder_path, **options):
        FakeApi.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        FakeApi.options = {**options, "token": self.token}
        return "https://huggingface.co/owner/walk/commit/1"


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "error", None)
    return FakeApi


def test_push_to_hub(saved, api):
    model, folder = saved
    options = dict(token="hf_x", commit_message="Longer training", branch="v2", model_card_kwargs={"license": "mit"})
    assert model.push_to_hub("owner/walk", **options) == "https://huggingface.co/owner/walk/commit/1"
    assert sorted(api.files) == FILES
    for name in ("config.json", "model.safetensors"):
        assert api.files[name] == (folder / name).read_bytes()
    card = ModelCard(api.files["README.md"].decode())
    assert card.data.license == "mit"
    assert "# owner/walk" in card.text.splitlines()
    assert 'WorldModel.from_pretrained("owner/walk")' in card.text
    expected = dict(repo_id="owner/walk", revision="v2", commit_message="Longer training", token="hf_x")
    assert expected.items() <= api.options.items()


def test_save_and_push_in_one_call(saved, api):
    model, folder = saved
    model.save_pretrained(folder, push_to_hub=True, repo_id="owner/walk")
    assert sorted(api.files) == FILES
    assert b"\n# owner/walk\n" in api.files["README.md"]


def test_push_that_the_hub_refuses(api):
    request = SimpleNamespace()
    response = SimpleNamespace(headers={}, request=request)
    api.error = HfHubHTTPError("401 Client Error.\n\nInvalid username or password.", response=response)
    with pytest.raises(PermissionError, match=r"refused 'owner/walk' \(.*\): 401 Client Error\. Invalid username") as e:
        WorldModel(CONFIG).push_to_hub("owner/walk")
    assert e.value.__cause__ is api.error


def test_push_under_no_name():
    with pytest.raises(ValueError, match=r"repo_id='a/b/c' is not a name on the Hugging Face Hub"):
        WorldModel(CONFIG).push_to_hub("a/b/c")
