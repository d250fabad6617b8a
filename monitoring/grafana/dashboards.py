"""The lab's four dashboards, as code. `python monitoring/grafana/dashboards.py` writes the JSON beside it; a test holds
the two equal. What they ask is in queries.py, how a panel looks in panels.py.
"""

from __future__ import annotations

import json
from pathlib import Path

from compare import compare
from federation import federation
from machines import machines
from workers import workers

DASHBOARDS = {"federation": federation, "workers": workers, "machines": machines, "compare": compare}


def rendered(name: str) -> str:
    """The committed text of one dashboard."""
    return json.dumps(DASHBOARDS[name](), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    folder = Path(__file__).parent / "dashboards"
    folder.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (folder / f"{name}.json").write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    main()
