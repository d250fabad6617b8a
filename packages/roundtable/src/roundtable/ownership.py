"""Whose a file or folder is, for the line that says why it cannot be used.

A volume belongs to who filled it: one restored as root, or a folder of the host in its place, is somebody
else's, and "Permission denied" alone does not tell.
"""

from __future__ import annotations

import os
from pathlib import Path


def of_another(path: Path, error: OSError) -> str:
    """To be put after an error's reason: who owns `path`, or the nearest folder around it that can be looked
    at, where that is why. Empty where permission is not the trouble, or the owner is this process's user.
    """
    if not isinstance(error, PermissionError):
        return ""
    for place in (path, *path.parents):
        try:
            owner = place.stat().st_uid
        except OSError:
            continue  # not there, or not for us to see
        if owner == os.geteuid():
            return ""
        return (
            f" ({place} belongs to uid {owner} and this runs as uid {os.geteuid()}; "
            "make own gives a compose lab's volumes back to it)"
        )
    return ""
