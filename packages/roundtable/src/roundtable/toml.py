"""TOML as users write it: whatever is wrong with a file is one line that names it and says what to do.

Beneath `experiment` and the lab's studies, which check what the tables mean.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TypeAlias

from roundtable.errors import InvalidExperiment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Tables: TypeAlias = dict[str, Any]


def read_tables(
    path: Path, remedy: str, where: str = "", invalid: type[InvalidExperiment] = InvalidExperiment
) -> Tables:
    """A file's tables. `remedy`: what to look at where there is no such file; `where` comes before its name.
    Raises `invalid`."""
    source = f"{where}{path}"
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows put a mark before the text
    except OSError as error:
        raise invalid(f"{source}: cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError:
        raise invalid(f"{source}: is not UTF-8 text: save it as UTF-8") from None
    return parse_tables(text, source, invalid)


def parse_tables(text: str, source: str, invalid: type[InvalidExperiment] = InvalidExperiment) -> Tables:
    """A text's tables. Raises `invalid`."""
    try:
        tables: Tables = tomllib.loads(text)
        return tables
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise invalid(f"{source}: is not TOML ({error})") from None
    except ValueError:  # Python's own, without a place
        raise invalid(f"{source}: has a number of more than 4,300 digits, too many to read") from None
