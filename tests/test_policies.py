"""Policies for all kinds of observations, their networks and features extractors."""

import dataclasses
import re
from functools import partial
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_env import TINY, RandomEnv, some
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)
from torch import nn

from sb3_pwm import PWM, CnnPolicy, MultiInputPolicy, PWMPolicy, WorldModel, WorldModelConfig

IMAGE = spaces.Box(0, 255, (2, 36, 36), np.uint8)
ENTRIES = spaces.Dict(
    image=IMAGE,
    vector=spaces.Box(-1.0, 1.0, (3,), np.float32),
    wide=spaces.Box(-1.0, 1.0, (2, 2), np.float64),
    number=spaces.Discrete(4),
    bits=spaces.MultiBinary(3),
)
SMALL = dict(policy_kwargs=TINY, learning_starts=15, batch_size=6, buffer_size=200, device="cpu", seed=0)


def with_kwargs(**policy_kwargs):
    return {**SMALL, "policy_kwargs": {**TINY, **policy_kwargs}}


def changed(before, module):
    """Names of the parameters and buffers that have changed."""
    return {name for name, value in module.state_dict().items() if not th.equal(before[name], value)}


def copy_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("policy", "space"),
    [
        ("CnnPolicy", IMAGE),
        ("MlpPolicy", IMAGE),
        ("MultiInputPolicy", ENTRIES),
        ("MultiInputPolicy", spaces.Dict(vector=ENTRIES["vector"])),
        ("MlpPolicy", spaces.MultiBinary((2, 3))),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
def test_learns_saves_loads_and_acts(policy, space, n_envs, once, tmp_path):
    env = make_vec_env(lambda: RandomEnv(space), n_envs, seed=0)
    model = PWM(policy, env, optimize_memory_usage=once, **SMALL)
    before = copy_of(model.policy)
    model.learn(26)
    moved = changed(before, model.policy)
    for part in ("world_model.encoder", "world_model.dynamics", "actor", "critic."):
        assert any(name.startswith(part) for name in moved), part
    extractor = set(model.policy.features_extractor.state_dict())
    assert all(f"features_extractor.{name}" in moved for name in extractor)

    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", device="cpu")
    assert type(loaded.policy) is type(model.policy)
    batch = some(env.observation_space, 4)
    actions, _ = model.predict(batch, deterministic=True)
    assert actions.shape == (4, 2)
    np.testing.assert_array_equal(actions, loaded.predict(batch, deterministic=True)[0])
    one = {key: value[1] for key, value in batch.items()} if isinstance(batch, dict) else batch[1]
    action, _ = loaded.predict(one, deterministic=True)
    assert action.shape == (2,)
    np.testing.assert_allclose(action, actions[1], atol=1e-5)

    model.policy.save(str(tmp_path / "policy"))
    alone = type(model.policy).load(str(tmp_path / "policy"), device="cpu")
    np.testing.assert_array_equal(actions, alone.predict(batch, deterministic=True)[0])


def test_the_dynamics_target_is_the_encoding_of_the_true_next_observation():
    """Only the first observation of a sequence has a gradient. The others are encoded as targets."""
    model = PWM("CnnPolicy", RandomEnv(IMAGE), **SMALL).learn(30)
    policy, horizon = model.policy, model.horizon
    raw = model.replay_buffer.sample_sequences(6, horizon)
    policy.set_training_mode(False)
    batch = policy.featurize(raw, trained=True)
    expected = policy.extract_features(raw.observations.flatten(0, 1), policy.features_extractor)
    th.testing.assert_close(batch.observations, expected.unflatten(0, (horizon + 1, 6)), rtol=1e-4, atol=1e-5)
    assert batch.observations.requires_grad
    loss = batch.observations[1:].sum()
    parameter = next(policy.features_extractor.parameters())
    (gradient,) = th.autograd.grad(loss, [parameter], retain_graph=True)
    assert (gradient == 0.0).all()
    (gradient,) = th.autograd.grad(batch.observations[0].sum(), [parameter])
    assert (gradient != 0.0).any()


def test_a_frozen_world_model_freezes_the_extractor_too():
    model = PWM("CnnPolicy", RandomEnv(IMAGE), world_model_updates=0, **SMALL)
    before = copy_of(model.policy)
    model.learn(30)
    moved = changed(before, model.policy)
    assert not any(name.startswith(("features_extractor", "world_model")) for name in moved)
    assert any(name.startswith("actor") for name in moved)


def test_a_dictionary_of_one_vector_learns_what_the_vector_does():
    vector = spaces.Box(-1.0, 1.0, (3,), np.float32)

    class Fixed(RandomEnv):
        """The same observations every time."""

        def reset(self, *, seed=None, options=None):
            self.observation_space.seed(5)
            return super().reset(seed=7, options=options)

    observation, actions = np.array([0.1, -0.5, 0.7], np.float32), []
    for flat in (False, True):
        env = Fixed(spaces.Dict(vector=vector))
        env = gym.wrappers.FlattenObservation(env) if flat else env
        model = PWM("MlpPolicy" if flat else "MultiInputPolicy", env, **SMALL)
        seen = observation if flat else {"vector": observation}
        before = model.predict(seen, deterministic=True)[0]
        actions.append((before, model.learn(60).predict(seen, deterministic=True)[0]))
    np.testing.assert_allclose(*actions, atol=1e-6)


@pytest.mark.parametrize("channel_last", [False, True])
def test_images_are_transposed_where_channels_come_last(channel_last, tmp_path):
    env = FakeImageEnv(screen_height=40, screen_width=38, n_channels=1, discrete=False, channel_first=not channel_last)
    kwargs = with_kwargs(features_extractor_kwargs=dict(features_dim=16))
    model = PWM("CnnPolicy", env, **kwargs).learn(30)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage) == channel_last
    observation, _ = env.reset()
    action, _ = model.predict(observation, deterministic=True)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(
        action, PWM.load(tmp_path / "model", env=env, **kwargs).predict(observation, deterministic=True)[0]
    )


def test_frames_are_stacked_in_dictionaries():
    env = DummyVecEnv([lambda: SimpleMultiObsEnv(random_start=True, discrete_actions=False, channel_last=False)])
    env = VecFrameStack(env, n_stack=3, channels_order={"vec": None, "img": "first"})
    model = PWM("MultiInputPolicy", env, **with_kwargs(features_extractor_kwargs=dict(cnn_output_dim=8)))
    assert model.learn(40).policy.world_model.config.observation_dim == 3 * 5 + 8


def test_dictionaries_of_subprocesses_and_normalized_entries():
    env = make_vec_env(RandomEnv, 2, seed=0, vec_env_cls=SubprocVecEnv, env_kwargs=dict(observation_space=ENTRIES))
    env = VecNormalize(env, norm_obs_keys=["vector", "wide"])
    model = PWM("MultiInputPolicy", env, **SMALL)
    model.learn(60)
    stored = model.replay_buffer.observations["vector"][: model.replay_buffer.size()]
    assert (np.abs(stored) <= 1.0).all()  # not normalized
    np.random.seed(0)
    raw = model.replay_buffer.sample_sequences(8, 2)
    np.random.seed(0)
    batch = model.replay_buffer.sample_sequences(8, 2, env=env)
    expected = env.normalize_obs({key: value.numpy() for key, value in raw.observations.items()})
    for key, values in expected.items():
        np.testing.assert_allclose(batch.observations[key].numpy(), values, rtol=1e-5, atol=1e-6)
    assert (batch.observations["image"] == raw.observations["image"]).all()
    env.close()


@pytest.mark.parametrize("normalize_images", [True, False])
def test_normalize_images(normalize_images):
    model = PWM("CnnPolicy", RandomEnv(IMAGE), **with_kwargs(normalize_images=normalize_images))
    seen = []
    model.policy.features_extractor.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.predict(np.full(IMAGE.shape, 255, np.uint8))
    assert seen[0].dtype == th.float32
    assert (seen[0] == (1.0 if normalize_images else 255.0)).all()


def test_images_of_a_normalizing_wrapper_need_normalize_images_false():
    def env():
        return VecNormalize(DummyVecEnv([lambda: RandomEnv(IMAGE)]))

    with pytest.raises(AssertionError, match="NatureCNN only with images"):
        PWM("CnnPolicy", env(), **SMALL)
    assert PWM("CnnPolicy", env(), **with_kwargs(normalize_images=False)).learn(20).n_updates == 5


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net_arch", "pi", "vf"),
    [
        (None, [128, 128], [128, 128]),
        ([], [], []),
        ([4], [4], [4]),
        ([8, 4], [8, 4], [8, 4]),
        (dict(pi=[8], vf=[4, 4]), [8], [4, 4]),
        (dict(pi=[8], qf=[4, 4]), [8], [4, 4]),
    ],
)
def test_net_arch(net_arch, pi, vf):
    model = PWM("MlpPolicy", "Pendulum-v1", **with_kwargs(net_arch=net_arch)).learn(20)
    hidden = [layer.out_features for layer in model.policy.actor.mean if isinstance(layer, nn.Linear)]
    assert hidden == [*pi, 1]
    # A layer's weight has the shape (critics, inputs, outputs), a normalization's (critics, 1, outputs).
    weights = [value for name, value in model.policy.critic.state_dict().items() if name.endswith("weight")]
    latent_dim = model.policy.world_model.config.latent_dim
    assert [tuple(w.shape[1:]) for w in weights if w.shape[1] > 1] == list(pairwise([latent_dim, *vf, 1]))
    assert model.policy.net_arch == dict(pi=pi, vf=vf)


@pytest.mark.parametrize("net_arch", [dict(pi=[8]), dict(pi=[8], vf=[8], qf=[8]), "big", [[8]], [0], [8.5]])
def test_bad_net_arch(net_arch):
    with pytest.raises(ValueError, match="net_arch must"):
        PWM("MlpPolicy", "Pendulum-v1", **with_kwargs(net_arch=net_arch))


class Square(nn.Module):
    def forward(self, x):
        return x**2


@pytest.mark.parametrize(
    ("activation_fn", "of_world_model"), [(nn.Tanh, nn.Tanh), (nn.GELU, nn.GELU), (Square, nn.SiLU), (nn.Mish, nn.Mish)]
)
def test_any_activation(activation_fn, of_world_model, tmp_path):
    model = PWM("MlpPolicy", "Pendulum-v1", **with_kwargs(activation_fn=activation_fn)).learn(20)

    def used(module):
        return any(isinstance(child, activation_fn) for child in module.modules())

    assert used(model.policy.actor)
    assert used(model.policy.critic)
    assert any(isinstance(child, of_world_model) for child in model.policy.world_model.modules())
    model.save(tmp_path / "model")
    assert used(PWM.load(tmp_path / "model", device="cpu").policy.actor)


def test_bad_activation():
    with pytest.raises(ValueError, match="activation_fn must be a subclass of torch's Module, got"):
        PWM("MlpPolicy", "Pendulum-v1", **with_kwargs(activation_fn=th.tanh))


def test_optimizers_get_their_class_and_arguments():
    for name, kwargs in (("NAdam", dict(weight_decay=1e-3)), ("RMSprop", None)):
        optimizer_class = getattr(th.optim, name)
        model = PWM(
            "MlpPolicy", "Pendulum-v1", **with_kwargs(optimizer_class=optimizer_class, optimizer_kwargs=kwargs)
        ).learn(20)
        for part in ("actor", "critic", "world_model"):
            optimizer = getattr(model.policy, f"{part}_optimizer")
            assert type(optimizer) is optimizer_class
            assert optimizer.param_groups[0]["weight_decay"] == (kwargs or {}).get("weight_decay", 0)


# --- features extractors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "space", "policy_kwargs", "expected"),
    [
        ("CnnPolicy", IMAGE, {}, 0.1),
        ("MultiInputPolicy", ENTRIES, {}, 0.1),
        ("MultiInputPolicy", spaces.Dict(vector=ENTRIES["vector"]), {}, 1.0),
        ("MlpPolicy", IMAGE, {}, 1.0),
        ("CnnPolicy", IMAGE, dict(encoder_lr_scale=0.3), 0.3),
        ("CnnPolicy", IMAGE, dict(encoder_lr_scale=1.0), 1.0),
    ],
)
def test_learning_rate_of_the_encoder(policy, space, policy_kwargs, expected, tmp_path):
    """An extractor that learns, and its encoder, have a tenth of the scheduled rate. The rest has the full rate."""
    schedule = dict(world_model_learning_rate=lambda progress: 1e-3 * progress)
    model = PWM(policy, RandomEnv(space), **with_kwargs(**policy_kwargs), **schedule)
    model.save(tmp_path / "model")
    for candidate in (model, PWM.load(tmp_path / "model", env=RandomEnv(space), device="cpu")):
        extractor, world_model = candidate.policy.features_extractor, candidate.policy.world_model
        groups = candidate.policy.world_model_optimizer.param_groups
        rates = {}

        def keep(_locals, _globals, groups=groups, rates=rates):
            for group in groups:
                rates.update({id(parameter): group["lr"] for parameter in group["params"]})
            return True

        candidate.learn(20, keep)  # the last call is between the updates after steps 19 and 20
        slow = {id(parameter) for part in (extractor, world_model.encoder) for parameter in part.parameters()}
        assert rates.keys() == {id(parameter) for part in (extractor, world_model) for parameter in part.parameters()}
        for parameter, rate in rates.items():
            assert rate == pytest.approx(1e-3 * 0.05 * (expected if parameter in slow else 1.0))


def test_bad_learning_rate_of_the_encoder():
    with pytest.raises(ValueError, match="encoder_lr_scale must be a number above 0, got -1"):
        PWM("MlpPolicy", "Pendulum-v1", **with_kwargs(encoder_lr_scale=-1))


def test_different_images_have_different_features_before_anything_is_learned():
    model = PWM("CnnPolicy", "Pendulum-pixels", **SMALL)
    env = model.get_env()
    images = np.concatenate([env.reset() for _ in range(20)])
    with th.no_grad():
        features = model.policy.extract_features(th.as_tensor(images), model.policy.features_extractor)
    # With torch's default initialization the ratio is about 0.1: all images have nearly the same features.
    assert features.std(0).norm() / features.mean(0).norm() > 0.4


class Noisy(BaseFeaturesExtractor):
    """Batch normalization and dropout, which differ between training and evaluation mode."""

    def __init__(self, observation_space, features_dim=7):
        super().__init__(observation_space, features_dim)
        self.linear = nn.Linear(observation_space.shape[0], features_dim)
        self.norm, self.dropout = nn.BatchNorm1d(features_dim), nn.Dropout(0.5)

    def forward(self, observations):
        return self.dropout(self.norm(self.linear(observations)))


def test_custom_extractor_trains_in_training_mode_and_acts_in_evaluation_mode(tmp_path):
    kwargs = with_kwargs(features_extractor_class=Noisy, features_extractor_kwargs=dict(features_dim=5))
    model = PWM("MlpPolicy", "Pendulum-v1", gradient_steps=0, **kwargs)
    extractor = model.policy.features_extractor
    assert model.policy.world_model.config.observation_dim == 5
    before = copy_of(extractor)
    observation = np.array([0.1, 0.2, 0.3], np.float32)
    first, _ = model.predict(observation, deterministic=True)
    for _ in range(5):
        np.testing.assert_array_equal(first, model.predict(observation, deterministic=True)[0])
    model.learn(60)
    assert not changed(before, extractor), "collecting steps changes nothing"
    model.gradient_steps = 1
    model.learn(30, reset_num_timesteps=False)
    moved = changed(before, extractor)
    assert {"linear.weight", "norm.weight", "norm.running_mean", "norm.running_var"} <= moved
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )


# --- errors at the door -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "space", "error", "message"),
    [
        ("MlpPolicy", ENTRIES, ValueError, "You must use `MultiInputPolicy`"),
        ("CnnPolicy", ENTRIES, ValueError, "You must use `MultiInputPolicy`"),
        ("MultiInputPolicy", IMAGE, ValueError, "MultiInputPolicy is for Dict observations.*CnnPolicy for images"),
        ("CnnPolicy", spaces.Box(-1, 1, (3,)), AssertionError, "NatureCNN only with images"),
        ("CnnPolicy", spaces.Box(0, 255, (3, 20, 20), np.uint8), ValueError, "NatureCNN does not fit.*36 x 36"),
        (
            "MultiInputPolicy",
            spaces.Dict(a=spaces.Box(0, 255, (3, 20, 20), np.uint8)),
            ValueError,
            "CombinedExtractor does not fit.*36 x 36",
        ),
        ("MlpPolicy", spaces.Tuple([IMAGE, IMAGE]), ValueError, "takes no Tuple observations: make them a Dict"),
        (
            "MultiInputPolicy",
            spaces.Dict(a=spaces.Dict(b=IMAGE)),
            NotImplementedError,
            r"nested.*\(entry 'a'\).*Flatten",
        ),
        ("MlpPolicy", spaces.MultiDiscrete([[2, 3], [4, 5]]), ValueError, r"MultiDiscrete.*shape \(2, 2\).*Flatten"),
        ("MlpPolicy", spaces.Text(5), ValueError, "takes no Text observations: .*TransformObservation"),
        ("MlpPolicy", spaces.Graph(ENTRIES["vector"], None), ValueError, "takes no Graph observations"),
        ("MlpPolicy", spaces.OneOf([ENTRIES["vector"], ENTRIES["number"]]), ValueError, "takes no OneOf observations"),
        ("MultiInputPolicy", spaces.Dict(s=spaces.Sequence(IMAGE)), ValueError, r"no Sequence.* \(entry 's'\)"),
        ("GruPolicy", IMAGE, ValueError, "Policy GruPolicy unknown"),
    ],
)
def test_wrong_policy_for_the_observations(policy, space, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        PWM(policy, RandomEnv(space), **SMALL)


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [7, 0]]),
        spaces.Tuple([ENTRIES["vector"], ENTRIES["number"]]),
        spaces.Dict(a=spaces.Dict(b=ENTRIES["vector"])),
    ],
    ids=lambda space: type(space).__name__,
)
def test_refused_observations_can_be_flattened(space):
    env = gym.wrappers.FlattenObservation(RandomEnv(space))
    assert PWM("MlpPolicy", env, **SMALL).learn(20).n_updates > 0


def test_refused_observations_can_be_transformed():
    text = RandomEnv(spaces.Text(min_length=2, max_length=2, charset="ab"))
    box = spaces.Box(0.0, 1.0, (2,), np.float32)
    env = gym.wrappers.TransformObservation(text, lambda word: np.array([c == "a" for c in word], np.float32), box)
    assert PWM("MlpPolicy", env, **SMALL).learn(20).n_updates > 0


SHIFTED = spaces.Dict(
    number=spaces.Discrete(4, start=3),
    numbers=spaces.MultiDiscrete([2, 3], start=[-1, 7]),
    scalar=spaces.Box(-1.0, 1.0, (), np.float32),
)


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (SHIFTED["number"], 5, [0, 0, 1, 0]),
        (SHIFTED["numbers"], [0, 7], [0, 1, 1, 0, 0]),
        (SHIFTED["scalar"], 0.25, [0.25]),
        (
            SHIFTED,
            dict(number=np.array(5), numbers=np.array([0, 7]), scalar=np.array(0.25, np.float32)),
            [0, 0, 1, 0, 0, 1, 1, 0, 0, 0.25],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
def test_categories_begin_at_their_start_and_numbers_need_no_axis(space, observation, expected, once, tmp_path):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    model = PWM(policy, make_vec_env(lambda: RandomEnv(space), 2), optimize_memory_usage=once, **SMALL).learn(30)
    assert model.n_updates > 0
    features = model.policy.extract_features(
        model.policy.obs_to_tensor(observation)[0], model.policy.features_extractor
    )
    assert features.tolist() == [expected]
    action = model.predict(observation, deterministic=True)[0]
    assert action.shape == (2,)
    batch = some(space, 3)
    actions = model.predict(batch, deterministic=True)[0]
    model.policy.export(tmp_path / "policy.pt")
    arrays = batch.values() if isinstance(batch, dict) else [batch]
    exported = th.jit.load(str(tmp_path / "policy.pt"))(*map(th.from_numpy, arrays)).numpy()
    np.testing.assert_allclose(exported, actions, atol=1e-5)


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        (dict(share_features_extractor=False), "share one extractor always"),
        (dict(use_sde=True), "explores without gSDE"),
        (dict(log_std=1.0), "has no argument 'log_std'"),
    ],
)
def test_arguments_of_other_policies(policy_kwargs, message):
    with pytest.raises(TypeError, match=message):
        PWM("MlpPolicy", "Pendulum-v1", **with_kwargs(**policy_kwargs))


def test_a_pretrained_world_model_sees_no_features():
    config = WorldModelConfig(observation_dim=512, action_dim=2, latent_dim=16, encoder_dim=16, mlp_dim=16)
    with pytest.raises(ValueError, match="sees observations as they are, not the features of an untrained NatureCNN"):
        PWM("CnnPolicy", RandomEnv(IMAGE), world_model=WorldModel(config), **{**SMALL, "policy_kwargs": {}})
    # A dictionary of vectors is flattened to one vector, which a pretrained world model can take.
    vectors = spaces.Dict(a=spaces.Box(-1.0, 1.0, (3,)), b=spaces.Box(-1.0, 1.0, (2,)))
    config = WorldModelConfig(observation_dim=5, action_dim=2, latent_dim=16, encoder_dim=16, mlp_dim=16)
    kwargs = {**SMALL, "policy_kwargs": dict(net_arch=[8])}
    model = PWM("MultiInputPolicy", RandomEnv(vectors), world_model=WorldModel(config), **kwargs).learn(20)
    assert model.n_updates == 5
    assert model.world_model.config == dataclasses.replace(config, termination=True)


@pytest.mark.parametrize("bad", ["vector", "image"])
def test_nan_in_a_dictionary_names_the_entry(bad):
    space = spaces.Dict(vector=spaces.Box(-1, 1, (3,)), image=spaces.Box(-1, 1, (2, 2)))

    class Failing(RandomEnv):
        def step(self, action):
            observation, *rest = super().step(action)
            if self.steps == 5:
                observation[bad] = np.full_like(observation[bad], np.nan)
            return observation, *rest

    model = PWM("MultiInputPolicy", Failing(space), **SMALL)
    with pytest.raises(ValueError, match=f"observation '{bad}' of environment 0 is NaN or infinite at step 5"):
        model.learn(30)
    assert model.replay_buffer.size() == 4


def test_policy_classes_are_exported_and_taken():
    for policy_class, space in ((CnnPolicy, IMAGE), (MultiInputPolicy, ENTRIES)):
        assert issubclass(policy_class, PWMPolicy)
        assert type(PWM(policy_class, RandomEnv(space), **SMALL).policy) is policy_class


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "env"), [("CnnPolicy", "Pendulum-pixels"), ("MultiInputPolicy", "Pendulum-dict")])
def test_learns_to_swing_up_what_it_sees(policy, env):
    """About four minutes each. Random actions have a return of -1,200, SAC of -1,000 after the same number of steps."""
    model = PWM(policy, env, learning_starts=300, buffer_size=50_000, seed=0, device="cpu").learn(2500)
    score, _ = evaluate_policy(model, make_vec_env(env, seed=7), 10)
    assert score > -400


@pytest.mark.parametrize("kind", ["images", "a Dict with images", "stacked"])
def test_shapes_that_change_after_normalization_are_refused(kind):
    """The replay buffer would store pixels in another order than the policy receives them."""
    image = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    wrapper, policy, kwargs = VecTransposeImage, "CnnPolicy", dict(norm_obs=False)
    if kind == "a Dict with images":
        space, policy = spaces.Dict(image=image, vector=ENTRIES["vector"]), "MultiInputPolicy"
        kwargs = dict(norm_obs_keys=["vector"])
    elif kind == "stacked":
        space, policy = ENTRIES["vector"], "MlpPolicy"
        wrapper = partial(VecFrameStack, n_stack=2)
    else:
        space = image
    venv = DummyVecEnv([lambda: RandomEnv(space)])
    # SB3 adds VecTransposeImage outermost.
    outside = VecNormalize(venv, **kwargs) if wrapper is VecTransposeImage else wrapper(VecNormalize(venv, **kwargs))
    with pytest.raises(ValueError, match=r"put VecNormalize outermost, as in VecNormalize\(VecTransposeImage\(env\)\)"):
        PWM(policy, outside, **SMALL)
    model = PWM(policy, VecNormalize(wrapper(venv), **kwargs), **SMALL).learn(40)
    with pytest.raises(ValueError, match="put VecNormalize outermost"):
        model.set_env(outside)


def test_pixels_are_stored_where_the_policy_sees_them():
    venv = VecTransposeImage(DummyVecEnv([lambda: RandomEnv(spaces.Box(0, 255, (36, 40, 3), np.uint8), length=4)]))
    seen = []

    class Recorded(VecEnvWrapper):
        def reset(self):
            seen.append(self.venv.reset())
            return seen[-1]

        def step_wait(self):
            result = self.venv.step_wait()
            seen.append(result[0])
            return result

    model = PWM("CnnPolicy", VecNormalize(Recorded(venv), norm_obs=False), **SMALL).learn(10)
    np.testing.assert_array_equal(model.replay_buffer.observations[:10], np.stack(seen[:10]))


def test_observations_that_are_no_numbers():
    model = PWM("MlpPolicy", RandomEnv(), **SMALL)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="observation that is NaN or infinite"):
            model.predict(np.array([0.0, bad, 0.0], np.float32))
    model.world_model.count_observations(th.randn(10, 3))
    assert np.isfinite(model.predict(np.full(3, 1e38, np.float32))[0]).all()  # normalized observations are clipped
    raw = PWM("MlpPolicy", RandomEnv(), world_model=dict(normalize_observations=False, latent_dim=16), device="cpu")
    with pytest.raises(ValueError, match="observation is far too large"):
        raw.predict(np.full(3, 1e38, np.float32))
    both = PWM("MultiInputPolicy", RandomEnv(spaces.Dict(a=ENTRIES["vector"], b=ENTRIES["number"])), **SMALL)
    with pytest.raises(ValueError, match="observation that is NaN or infinite"):
        both.predict(dict(a=np.full(3, np.nan, np.float32), b=1))
    action = both.predict(dict(a=np.zeros(3, np.float32), b=1))[0]
    assert np.isfinite(action).all()


def test_the_actor_alone_refuses_observations():
    model = PWM("MlpPolicy", RandomEnv(), **SMALL)
    with pytest.raises(NotImplementedError, match=r"acts on the world model's latent: call the policy's predict\(\)"):
        model.policy.actor.predict(np.zeros(3, np.float32), deterministic=True)
