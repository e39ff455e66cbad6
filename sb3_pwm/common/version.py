"""The version of the package, and the format of the files that it writes."""

__version__ = "0.2.0.dev0"

FILE_FORMAT = 2
"""Number of the layout of saved models, policies and replay buffers. A file of another number is not read."""

_WRITERS = {1: "0.1.0"}
"""The last version that wrote each older format."""


class FileFormatError(ValueError):
    """A file was written by a version of the package whose files this version does not read."""

    def __init__(self, path: object, kind: str, file_format: int):
        """
        :param path: The file.
        :param kind: Kind of its content, such as ``"model"``.
        :param file_format: The format that it was written in; files of format 1 do not name theirs.
        """
        if file_format < FILE_FORMAT:
            writer = _WRITERS.get(file_format, "an older version")
            text = (
                f"{path} holds a {kind} of sb3-pwm {writer}, an older version: sb3-pwm {__version__} does not read "
                f"its files. Install sb3-pwm {writer} to use it, or make it anew."
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
    :param path: The file.
    :param kind: Kind of its content, such as ``"model"``.
    :param file_format: The format that it was written in; 1 if it does not say.
    :raises FileFormatError: If this version does not read that format.
    """
    if file_format != FILE_FORMAT:
        raise FileFormatError(path, kind, file_format)


def is_of_older_version(error: Exception) -> bool:
    """
    :param error: Error of unpickling a file.
    :return: Whether the file names a module that older versions had.
    """
    return isinstance(error, ModuleNotFoundError) and str(error.name).startswith("sb3_pwm.")
