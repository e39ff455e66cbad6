"""Import hook that adds PWM to modules of rl-zoo3 after they are loaded."""

import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from sb3_pwm.zoo.registration import REGISTRATIONS, register


class ExtendingLoader:
    """
    Execute a module with its own loader, then add PWM to it.

    :param loader: Loader of the module.
    """

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """
        Execute a module and add PWM to it.

        :param module: The module.
        """
        # Tracebacks, resources and reloads use the loader of the module: restore its own.
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        try:
            register(module)
        except Exception as error:
            # Probably another version of rl-zoo3. The algorithms of rl-zoo3 must still work.
            warnings.warn(f"sb3-pwm could not add PWM to {module.__name__}: {type(error).__name__}: {error}")


class ZooFinder:
    """Import finder for the modules of rl-zoo3 that PWM is added to. The finders after it do the finding."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """
        Find a module of rl-zoo3.

        :param fullname: Name of the module.
        :param path: Search path, as for :meth:`importlib.abc.MetaPathFinder.find_spec`.
        :param target: Module that is being reloaded, if any.
        :return: Spec from the finders after this one, with a loader that adds PWM; None for other modules.
        """
        if fullname not in REGISTRATIONS or cls not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(cls) + 1 :]:
            spec = finder.find_spec(fullname, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = ExtendingLoader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


def install() -> None:
    """Add PWM to the modules of rl-zoo3 that are loaded, and to the others when they are loaded."""
    if ZooFinder not in sys.meta_path:
        sys.meta_path.insert(0, ZooFinder)  # type: ignore[arg-type]
    for name in REGISTRATIONS:
        module = sys.modules.get(name)
        # A module that is still being imported has nothing to add to yet.
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            register(module)
