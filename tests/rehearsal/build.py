"""Build `fake_cuda.cpp` for the installed torch, once, into a cache folder.

Runs in pytest's own process: it neither imports torch nor loads what it builds.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import platformdirs

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
FLAGS = ("-std=c++20", "-O0", "-shared", "-fPIC")
COMPILERS = ("g++", "clang++", "c++")


class CannotBuildError(Exception):
    """There is nothing to rehearse with on this machine; the text says why."""


def torch_folder() -> Path:
    """Where torch is installed, without importing it."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def compiler() -> str:
    """The path of a C++ compiler.

    Raises:
        CannotBuildError: if there is none, or torch brings a CUDA backend of its own.
    """
    if not sys.platform.startswith("linux"):
        raise CannotBuildError("the fake CUDA backend is built on Linux only")
    if (torch_folder() / "lib" / "libtorch_cuda.so").exists():
        raise CannotBuildError("this torch is a CUDA build, whose backend cannot be replaced; install the CPU build")
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise CannotBuildError(f"no C++ compiler: none of {', '.join(COMPILERS)} is on the PATH")
    return found


def built_library(cache: Path | None = None) -> Path:
    """The library, built if it is not in the cache.

    Two processes may build it at once: each writes a file of its own and renames it, so that none loads a half.

    Args:
        cache: folder; by default the user's cache.

    Raises:
        CannotBuildError: if it cannot be built.
    """
    command = compiler()
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    parts = (SOURCE.read_text("utf-8"), version("torch"), said, *FLAGS)
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
    folder = _writable(cache or platformdirs.user_cache_path("tunesmith-tests"))
    library = folder / f"fake_cuda-{key}.so"
    if library.exists():
        return library
    include = torch_folder() / "include"
    handle, name = tempfile.mkstemp(".so", "building-", folder)
    os.close(handle)
    own = Path(name)
    try:
        includes = (f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}")
        arguments = [command, *FLAGS, *includes, str(SOURCE), "-o", str(own)]
        finished = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise CannotBuildError(f"{command} failed on {SOURCE.name}:\n{finished.stderr[-2000:]}")
        own.replace(library)
    finally:
        own.unlink(missing_ok=True)
    return library


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        other = Path(tempfile.gettempdir()) / f"tunesmith-tests-{os.getuid()}"
        other.mkdir(mode=0o700, exist_ok=True)
        return other
