"""Reading the `.npz` files of data sets; whatever is wrong with one ends in one line that names it and the
remedy.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roundtable.errors import InvalidData
from roundtable.types import Array


def read_npz(path: Path, keys: Sequence[str], remedy: str) -> dict[str, Array]:
    """The named arrays and no others. Raises InvalidData when the file is missing, cannot be read, is corrupt
    or truncated, or lacks one.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InvalidData(f"{path}: is a single array, not an .npz archive; {remedy}")
        with archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise InvalidData(
                    f"{path}: has no array {missing[0]!r}, only {', '.join(archive.files)}; {remedy}"
                )
            return {key: archive[key] for key in keys}
    except FileNotFoundError:
        raise InvalidData(f"{path}: there is no such file; {remedy}") from None
    except OSError as error:  # of its folder, its owner or its disk
        raise InvalidData(f"{path}: cannot be read ({error.strerror or _line(error)}); {remedy}") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidData(f"{path}: is corrupt or truncated ({_line(error)}); {remedy}") from None


def _line(error: Exception) -> str:
    if "pickle" in str(error):  # numpy's guess at whatever it does not know, with bad advice
        return "it is no archive of plain arrays"
    return " ".join(str(error).split())[:200] or type(error).__name__
