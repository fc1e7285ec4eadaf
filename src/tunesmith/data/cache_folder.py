"""Where what can be made again is kept."""

import os
from pathlib import Path

CACHE_VARIABLE = "TUNESMITH_CACHE"


def cache_folder() -> Path:
    """The folder that TUNESMITH_CACHE names, else the system's place for caches."""
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured)
    from platformdirs import user_cache_path

    return user_cache_path("tunesmith")
