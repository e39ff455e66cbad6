import re
import textwrap
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION_FILE = (ROOT / "sb3_pwm/common/version.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', VERSION_FILE, re.MULTILINE)[1]


def startup_line() -> str:
    """The one line of sb3_pwm_zoo.pth: startup.py, guarded, in a namespace of its own."""
    source = (ROOT / "sb3_pwm/zoo/startup.py").read_text(encoding="utf-8")
    guarded = "try:\n" + textwrap.indent(source, "    ") + "except Exception:\n    pass\n"
    return f"import sys; exec({guarded!r}, {{'__name__': 'sb3_pwm_zoo'}})\n"


class BuildPy(build_py):
    """Adds two files that no list of packages can name: the zoo's hyperparameters, and Python's start-up file."""

    def _hyperparams(self):
        return [("sb3_pwm", "hyperparams", str(Path(self.build_lib, "sb3_pwm/hyperparams")), ["pwm.yml"])]

    def _get_data_files(self):
        return super()._get_data_files() + self._hyperparams()

    def get_data_files_without_manifest(self):
        return super().get_data_files_without_manifest() + self._hyperparams()

    def run(self):
        super().run()
        # What an editable install leaves in site-packages is not what it builds.
        target = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        Path(target, "sb3_pwm_zoo.pth").write_text(startup_line(), encoding="utf-8")


setup(
    name="sb3-pwm",
    version=VERSION,
    description="PWM (Policy Learning with Multi-Task World Models) for Stable-Baselines3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    keywords="reinforcement-learning world-model model-based stable-baselines3 gymnasium dm-control pytorch",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    # Written out, so that an editable install is a plain path entry, not an import finder that every start pays for.
    package_dir={"": "."},
    packages=find_packages(include=["sb3_pwm", "sb3_pwm.*"]),
    package_data={
        "sb3_pwm": ["py.typed", "published_scores.csv", "pretrained/*/*", "pretrained/*/data/*"],
        "sb3_pwm.envs": ["muscles.json"],
    },
    cmdclass={"build_py": BuildPy},
    python_requires=">=3.10",
    install_requires=[
        "stable-baselines3>=2.9.2,<3",
        "torch>=2.8",
        "gymnasium>=1.1,<2",
        # dm_control 1.0.49 needs 3.16, Meta-World 3.0.0 fails with 3.17 and dm_control with 4.0.
        "mujoco>=3.16,<3.17",
        "dm_control>=1.0.49",
        "scipy",
        "shimmy>=2.0,<3",
        "rl-zoo3>=2.9.2,<3",
        # The `rl_zoo3` command imports its plots, and `-optimize` writes its report, whether or not they are asked for.
        "seaborn",
        "pandas>=2.2,<3",
        "optuna>=4",
        "tensorboard>=2.9",
        "safetensors>=0.4",
        # The range of sb3-team-hf-integration, which rl-zoo3 needs
        "huggingface_hub>=2.0,<3",
        "psutil",
        "rich",
        "tqdm",
    ],
    entry_points={"console_scripts": ["sb3-pwm = sb3_pwm.cli:main"]},
    extras_require={
        # 3.1 pins a MuJoCo that dm_control 1.0.49 refuses.
        "metaworld": ["metaworld>=3.0.0,<3.1"],
        # 2.12 and older pin a MuJoCo that dm_control 1.0.49 refuses. 3.0.0 asks for gymnasium<1.3.
        "myosuite": ["myosuite>=3.0.0,<3.1"],
        "minari": ["minari[hdf5]>=0.5.4"],
        "onnx": ["onnx>=1.17", "onnxscript>=0.3"],
        # Extraction on a cluster: `sb3-pwm extract --ray-address`
        "ray": ["ray>=2.50"],
        "plots": ["rl-zoo3[plots]", "plotly"],
        # pygame or pygame-ce, by the version of Gymnasium: windows of render_mode="human", as rl_zoo3.enjoy opens
        "render": ["gymnasium[classic-control]"],
        # minari 0.5.4 needs Python 3.11
        "tests": [
            "metaworld>=3.0.0,<3.1",
            "minari[hdf5]>=0.5.4; python_version >= '3.11'",
            "onnx>=1.17",
            "onnxruntime",
            "onnxscript>=0.3",
            "pytest",
            "pytest-xdist",
            "ray>=2.50",
            "rliable>=1.2",
            "hypothesis",
            "ruff",
            "mypy",
            "types-PyYAML",
            "setuptools>=77",
        ],
        # The curves and tables of benchmarks/, and the report of `sb3-pwm extract`
        "benchmarks": ["rliable>=1.2"],
        "docs": ["sphinx>=8.1", "myst-parser>=4", "furo"],
    },
)
