"""Where what can be made again is kept."""

import os
from pathlib import Path

from platformdirs import user_cache_path

CACHE_VARIABLE = "TUNESMITH_CACHE"


def cache_folder() -> Path:
    """The folder that TUNESMITH_CACHE names, else the system's place for caches."""
    configured = os.environ.get(CACHE_VARIABLE)
    return Path(configured) if configured else user_cache_path("tunesmith")
