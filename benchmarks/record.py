"""A measurement with the circumstances it was made in."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.utils.device import environment
from tunesmith.utils.files import to_json

RESULTS = Path(__file__).parent / "results"


def keep(name: str, result: dict[str, Any]) -> Path:
    """Write `results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "command": f"python {Path(sys.argv[0]).name} {' '.join(Path(argument).name for argument in sys.argv[1:])}",
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        **result,
    }
    path.write_text(to_json(content, indent=2) + "\n", encoding="utf-8")
    return path
