"""
Choice of the graphics library, so that dm_control can be imported on every machine and can render where possible.

dm_control and MuJoCo choose their OpenGL backend when they are imported, by the environment variable MUJOCO_GL. If it
is not set, they choose GLFW, which fails at the first image on a machine without a display. If it names a library that
is not installed, their import fails, and so does training, which renders nothing.
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

# Reason why dm_control was imported without rendering; None if it can render or is not imported.
_rendering_failure: str | None = None


def import_suite() -> Any:
    """
    Import ``dm_control.suite`` with a graphics library that this machine has.

    If there is no display and MUJOCO_GL is not set, it is set to ``egl`` if EGL finds a device, else to ``osmesa`` if
    that library is installed. If no library can be loaded, dm_control is imported without rendering.

    :return: The module ``dm_control.suite``.
    :raises ImportError: If dm_control is not installed.
    """
    requested = os.environ.get("MUJOCO_GL")
    # If dm_control is imported already, the variable has no effect.
    if requested is None and "dm_control._render" not in sys.modules and _is_headless():
        backend = _headless_backend()
        if backend is None:
            return _import_suite_without_rendering("neither EGL with a driver nor OSMesa is installed")
        os.environ["MUJOCO_GL"] = backend
    try:
        from dm_control import suite  # dm_control waits for the choice of its graphics library
    except Exception as error:  # PyOpenGL raises AttributeError, ImportError and others
        if isinstance(error, ModuleNotFoundError):
            raise
        reason = f"with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} the import of dm_control fails: {error}"
        if requested is None:
            os.environ.pop("MUJOCO_GL", None)
        return _import_suite_without_rendering(reason)
    return suite


def check_rendering() -> None:
    """
    Check that :func:`import_suite` has loaded a graphics library.

    :raises RuntimeError: If it has not. The message says what to install.
    """
    if _rendering_failure is not None:
        raise RuntimeError(f"No image can be rendered: {_rendering_failure}. {HOW_TO_RENDER}")


def open_renderer(model: Any, width: int, height: int) -> Any:
    """
    Make MuJoCo's renderer of a model that is not dm_control's.

    :param model: MuJoCo's model.
    :param width: Width of the images in pixels.
    :param height: Height of the images in pixels.
    :return: The renderer, a ``mujoco.Renderer``.
    :raises RuntimeError: If the graphics library cannot render. The message says what to install.
    """
    check_rendering()
    import mujoco  # waits for import_suite, which chooses the graphics library of mujoco

    fit_picture(model, width, height)
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # each backend raises errors of other kinds
        raise RuntimeError(
            f"MuJoCo cannot render: {error}. If MuJoCo was imported before this environment was made, it chose "
            f"the graphics library itself: set MUJOCO_GL before that import. {HOW_TO_RENDER}"
        ) from error


def fit_picture(model: Any, width: int, height: int) -> None:
    """
    Enlarge the off-screen buffer of a model, by default 640 x 480, if an image does not fit into it.

    :param model: MuJoCo's model.
    :param width: Width of the image in pixels.
    :param height: Height of the image in pixels.
    """
    buffer = model.vis.global_
    buffer.offwidth = max(buffer.offwidth, width)
    buffer.offheight = max(buffer.offheight, height)


def _import_suite_without_rendering(reason: str) -> Any:
    """
    Import dm_control without a graphics library.

    :param reason: Reason why there is none, for :func:`check_rendering`.
    :return: The module ``dm_control.suite``.
    """
    global _rendering_failure
    requested = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        from dm_control import suite  # dm_control waits for the choice of its graphics library
    finally:
        # Restore the user's value, which child processes and other libraries read.
        if requested is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = requested
    _rendering_failure = reason
    return suite


def _is_headless() -> bool:
    """:return: Whether this is a Linux machine without a display."""
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.platform.startswith("linux") and not has_display


def _headless_backend() -> str | None:
    """:return: Value of MUJOCO_GL for a machine without a display; None if no library is installed."""
    if _egl_has_device():
        return "egl"
    if ctypes.util.find_library("OSMesa") is not None:
        return "osmesa"
    return None


def _egl_has_device() -> bool:
    """:return: Whether EGL is installed and has a device. It has none without a driver, such as libegl-mesa0."""
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
