"""How dm_control comes to draw pictures, on machines with a display, without one, and without any graphics library.

dm_control and MuJoCo pick their OpenGL backend once, while they are imported, from the variable MUJOCO_GL. Left to
themselves on a machine without a display they pick GLFW, which only fails at the first picture; pointed at a library
that is not installed they fail to import at all, and training, which draws nothing, fails with them.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from typing import Any

HOW_TO_RENDER = (
    "Install an OpenGL library: on Debian or Ubuntu `apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri` for "
    "MUJOCO_GL=egl, or `apt-get install libosmesa6` for MUJOCO_GL=osmesa. Leave MUJOCO_GL unset to have one chosen."
)

# Why dm_control was imported without rendering; None where it was imported with it.
_rendering_failure: str | None = None


def import_suite() -> Any:
    """Imports ``dm_control.suite``, choosing a graphics backend that this machine can use.

    Without a display, and where MUJOCO_GL is not set, it is set to ``egl`` where EGL finds a device, else to
    ``osmesa`` where that library exists. Where no backend can be loaded, dm_control is imported without rendering.

    :return: The module ``dm_control.suite``.
    :raises ImportError: if dm_control is not installed.
    """
    requested = os.environ.get("MUJOCO_GL")
    # Once dm_control has been imported its backend is settled, and the variable changes nothing.
    if requested is None and "dm_control._render" not in sys.modules and _is_headless():
        backend = _headless_backend()
        if backend is None:
            return _import_suite_without_rendering("neither EGL with a driver nor OSMesa is installed")
        os.environ["MUJOCO_GL"] = backend
    try:
        from dm_control import suite  # after the choice of its graphics library
    except Exception as error:  # PyOpenGL raises AttributeError, ImportError or its own errors by what is missing.
        if isinstance(error, ModuleNotFoundError):
            raise
        reason = f"with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} the import of dm_control fails: {error}"
        if requested is None:
            os.environ.pop("MUJOCO_GL", None)
        return _import_suite_without_rendering(reason)
    return suite


def check_rendering() -> None:
    """Checks, after `import_suite`, that a graphics backend could be loaded.

    :raises RuntimeError: if none could; the message says what to install.
    """
    if _rendering_failure is not None:
        raise RuntimeError(f"no picture can be drawn: {_rendering_failure}. {HOW_TO_RENDER}")


def fit_picture(model: Any, width: int, height: int) -> None:
    """Makes MuJoCo's buffer, whose size a model fixes at 640 x 480, large enough for a picture.

    :param model: MuJoCo's model.
    :param width: Width of the picture in pixels.
    :param height: Height of the picture in pixels.
    """
    buffer = model.vis.global_
    buffer.offwidth = max(buffer.offwidth, width)
    buffer.offheight = max(buffer.offheight, height)


def _import_suite_without_rendering(reason: str) -> Any:
    global _rendering_failure
    requested = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        from dm_control import suite  # after the choice of its graphics library
    finally:
        # Put back what the user has set: child processes, and other libraries, decide for themselves.
        if requested is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = requested
    _rendering_failure = reason
    return suite


def _is_headless() -> bool:
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.platform.startswith("linux") and not has_display


def _headless_backend() -> str | None:
    if _egl_has_device():
        return "egl"
    if ctypes.util.find_library("OSMesa") is not None:
        return "osmesa"
    return None


def _egl_has_device() -> bool:
    """Whether EGL is installed with a driver (libegl1 alone, without libegl-mesa0 or a vendor's, has no device)."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return False
    signature = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))
    query_devices = signature(address)
    count = ctypes.c_int(0)
    return bool(query_devices(0, None, ctypes.byref(count))) and count.value > 0
