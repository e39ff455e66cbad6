"""World models that come with the package, each with a little of the data that it was pretrained on."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "pretrained"
"""A folder for each: what ``WorldModel.save_pretrained`` writes, and the data in ``data``"""


def packaged_names() -> list[str]:
    """:return: Names of the world models that come with the package."""
    return sorted(path.name for path in FOLDER.glob("*") if path.is_dir())


def model_file(path: str | Path) -> Path:
    """
    Find the file of a world model.

    :param path: The file, or the name of a world model of the package. A file or folder of that name comes first.
    :return: The file.
    """
    return FOLDER / path / "model.safetensors" if _is_packaged(path) else Path(path)


def data_source(source: str | Path) -> str | Path:
    """
    Find the data of a world model of the package.

    :param source: A source of data, or the name of a world model of the package. A file or folder of that name comes
        first.
    :return: The folder of its data; else the source as it is.
    """
    return FOLDER / source / "data" if _is_packaged(source) else source


def _is_packaged(name: str | Path) -> bool:
    return str(name) in packaged_names() and not Path(name).exists()
