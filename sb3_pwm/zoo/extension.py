"""Loading rl-zoo3's modules as usual, with PWM added at the end."""

import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from sb3_pwm.zoo.registration import REGISTRATIONS, register


class ExtendingLoader:
    """
    Runs a module through its own loader, then adds PWM to it.

    :param loader: The module's own loader.
    """

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """:param module: Module to execute and extend."""
        # Tracebacks, resources and reloads use the loader that they find on the module: leave its own there.
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        try:
            register(module)
        except Exception as error:
            # Another version of rl-zoo3, probably: its own algorithms must go on working.
            warnings.warn(f"sb3-pwm could not add PWM to {module.__name__}: {type(error).__name__}: {error}")


class ZooFinder:
    """Import finder for the modules of rl-zoo3 that PWM is added to; other finders find them."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """
        :param fullname: Name of the module that is being imported.
        :param path: Where to look, as for :meth:`importlib.abc.MetaPathFinder.find_spec`.
        :param target: Module that is being reloaded, if any.
        :return: The spec that the finders behind this one give, with a loader that also adds PWM.
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
    """Add PWM to those of rl-zoo3's modules that are loaded, and to the others as soon as they are."""
    if ZooFinder not in sys.meta_path:
        sys.meta_path.insert(0, ZooFinder)  # type: ignore[arg-type]
    for name in REGISTRATIONS:
        module = sys.modules.get(name)
        # One that is still being imported has nothing to extend yet.
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            register(module)
