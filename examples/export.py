"""
Export a policy to ONNX and to TorchScript, and compare the actions of the files with those of the model.

The exported policies contain the normalization of observations.

    pip install 'sb3-pwm[onnx]' onnxruntime
    python examples/export.py [--steps 1000] [--out policy]
"""

import argparse

import numpy as np
import onnxruntime
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm import PWM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000, help="number of environment steps")
    parser.add_argument("--out", default="policy", help="path of the files without their endings, .onnx and .pt")
    args = parser.parse_args()

    env = VecNormalize(make_vec_env("Pendulum-v1", seed=0), norm_reward=False)
    model = PWM("MlpPolicy", env, learning_starts=300, seed=0).learn(args.steps)
    for ending in ("onnx", "pt"):
        model.policy.export(f"{args.out}.{ending}", model.get_vec_normalize_env())

    # The exported policies take observations that are not normalized yet.
    observations = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 3)).astype(np.float32)
    expected, _ = model.predict(env.normalize_obs(observations), deterministic=True)
    (onnx_actions,) = onnxruntime.InferenceSession(f"{args.out}.onnx").run(["actions"], {"observations": observations})
    torchscript_actions = th.jit.load(f"{args.out}.pt")(th.from_numpy(observations)).numpy()
    for name, actions in (("ONNX", onnx_actions), ("TorchScript", torchscript_actions)):
        print(f"{name}: largest difference from predict() {np.abs(actions - expected).max():.1e}")


if __name__ == "__main__":
    main()
