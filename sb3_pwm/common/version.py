"""Version of the package, and format of the files that it writes."""

__version__ = "0.2.0.dev0"

FILE_FORMAT = 3
"""Format number of saved models, policies and replay buffers. Files of another format are not read."""

_WRITERS = {1: "0.1.0", 2: "0.2.0.dev0"}
"""The last version that wrote each older format."""


class FileFormatError(ValueError):
    """
    Error for a file in a format that this version of the package does not read.

    :param path: The file.
    :param kind: Kind of the file's content: ``"model"``, ``"policy"`` or ``"replay buffer"``.
    :param file_format: Format number of the file. Files of format 1 do not store it.
    """

    def __init__(self, path: object, kind: str, file_format: int):
        if file_format < FILE_FORMAT:
            writer = _WRITERS.get(file_format, "an older version")
            text = (
                f"{path} holds a {kind} of sb3-pwm {writer}, an older version: sb3-pwm {__version__} does not read "
                f"its files. Install sb3-pwm {writer} to use this {kind}, or make a new one."
            )
        else:
            text = (
                f"{path} holds a {kind} of a newer version of sb3-pwm (file format {file_format}; {__version__} reads "
                f"format {FILE_FORMAT}): update sb3-pwm."
            )
        super().__init__(text)
        self.file_format = file_format


def check_file_format(path: object, kind: str, file_format: int) -> None:
    """
    Check that this version of the package reads the format of a file.

    :param path: The file.
    :param kind: Kind of the file's content: ``"model"``, ``"policy"`` or ``"replay buffer"``.
    :param file_format: Format number of the file; 1 if the file does not store it.
    :raises FileFormatError: If this version does not read the format.
    """
    if file_format != FILE_FORMAT:
        raise FileFormatError(path, kind, file_format)


def is_of_older_version(error: Exception) -> bool:
    """
    Tell whether unpickling failed because the file is of an older version.

    :param error: Error that unpickling the file raised.
    :return: Whether the file names a module that only older versions of the package have.
    """
    return isinstance(error, ModuleNotFoundError) and str(error.name).startswith("sb3_pwm.")
