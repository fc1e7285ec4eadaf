"""Find or download the folder of a MODEL argument.

A MODEL is `tiny` (ships inside the package), a preset, a folder, a run folder (which is a model folder too), or
a hub id such as `rinna/japanese-gpt2-small`. The hub library does the download: progress, resuming and
verification are its business; ours is to ask only for the files we read and to turn every way in which it
can fail into one clear error within seconds.
"""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import UserError
from tunesmith.i18n import LazyString
from tunesmith.model.gpt2_config import GPT2Config

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

TINY = "tiny"

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
)
SAFE_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
SUBFOLDERS = "*/*"
"""Where repositories keep other formats; nothing we read."""

REACH_HUB_S = 5.0
"""How long the hub may take to answer the first question before it counts as unreachable."""

LOCAL_MODEL = LazyString("name a local folder with the model (config.json, model.safetensors, tokenizer.json), or tiny")
"""Hint where the hub cannot be reached."""


def local_folder(model: str) -> Path:
    """Find or fetch the folder of a MODEL.

    Raises:
        UserError: if there is none: no such folder, no such hub id, hub unreachable.
    """
    if model == TINY:
        return Path(str(files("tunesmith"))) / "assets" / TINY
    path = Path(model)
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(
            "{model} is a file, not a model folder",
            hint="if another program's checkpoint is meant: tunesmith import {model} --out DIR",
            model=model,
        )
    if model in PRESETS:
        return _from_hub(PRESETS[model])
    if _looks_like_a_path(model):
        raise UserError(
            "model folder not found: {model}",
            hint="check the path; or {otherwise}",
            model=model,
            otherwise=LOCAL_MODEL,
        )
    return _from_hub(model)


def folder_here(model: str) -> Path | None:
    """The folder of a MODEL if it is on this machine already; without any network access."""
    if model == TINY or Path(model).is_dir():
        return local_folder(model)
    if Path(model).is_file() or (model not in PRESETS and _looks_like_a_path(model)):
        return local_folder(model)  # which says what is wrong
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(PRESETS.get(model, model), "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _looks_like_a_path(model: str) -> bool:
    """Whether a name that does not exist can only have been meant as one (a hub id is OWNER/NAME)."""
    return model.startswith((".", "~", "/", "\\")) or model.endswith("/") or model.count("/") != 1


def _from_hub(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    info = _ask_hub(repo_id)
    if info is None:  # no network: what an earlier run downloaded is as good
        try:
            wanted = [*SMALL_FILES, *SAFE_WEIGHTS]
            return Path(
                snapshot_download(repo_id, local_files_only=True, allow_patterns=wanted, ignore_patterns=SUBFOLDERS)
            )
        except LocalEntryNotFoundError:
            raise UserError(
                "the model hub cannot be reached, and {repo_id} was not downloaded before",
                hint="{otherwise}",
                repo_id=repo_id,
                otherwise=LOCAL_MODEL,
            ) from None
    try:
        return Path(snapshot_download(repo_id, allow_patterns=_wanted(info), ignore_patterns=SUBFOLDERS))
    except Exception as error:  # the hub library raises what its transport raises; none of it is ours
        raise UserError(
            "downloading {repo_id} failed: {error}",
            hint="run the same command again to continue the download; or {otherwise}",
            repo_id=repo_id,
            error=_first_line(error),
            otherwise=LOCAL_MODEL,
        ) from error


def _ask_hub(repo_id: str) -> "ModelInfo | None":
    """What the hub knows of the repository, or None if it cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return HfApi().model_info(repo_id, timeout=REACH_HUB_S)
    except GatedRepoError:
        raise UserError(
            "{repo_id} asks for your consent",
            hint="accept its terms on its page, then `hf auth login`",
            repo_id=repo_id,
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            "model not found: {repo_id!r} is neither a folder here nor a repository on the hub",
            hint="presets are {presets}; {otherwise}",
            repo_id=repo_id,
            presets=", ".join(PRESETS),
            otherwise=LOCAL_MODEL,
        ) from None
    except (OfflineModeIsEnabled, HTTPError, OSError):
        return None


def _wanted(info: "ModelInfo") -> list[str]:
    """Patterns of the files we read: never TensorFlow, ONNX or a second copy of the weights."""
    names = [sibling.rfilename for sibling in info.siblings or []]
    has_safe_weights = any(name.endswith(".safetensors") and "/" not in name for name in names)
    return [*SMALL_FILES, *(SAFE_WEIGHTS if has_safe_weights else OLD_WEIGHTS)]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


PRESETS = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}

VOCABULARY, POSITIONS = 50_257, 1024
SIZES = {
    "distilgpt2": (6, 768, 12),
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}
"""Layers, channels and heads (Radford et al. 2019; Sanh et al. 2019)."""


def preset_shape(model: str) -> GPT2Config | None:
    """The shape of a preset, by its short name or its name on the hub; None for any other model."""
    names = {**{name: name for name in PRESETS}, **{hub: name for name, hub in PRESETS.items()}}
    if model not in names:
        return None
    layers, channels, heads = SIZES[names[model]]
    return GPT2Config(VOCABULARY, POSITIONS, channels, layers, heads, 4 * channels)
