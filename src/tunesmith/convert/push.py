"""The command `push`: upload a model folder to the Hugging Face Hub, through its own library.

Only the files that programs read a model from are uploaded. What a run keeps next to them (checkpoints, optimizer,
samples, metrics) stays here: it can contain pieces of the training text.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.config import PushConfig
from tunesmith.data.tokenizer import FILES, load_tokenizer
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.model.hf_checkpoint import weight_files
from tunesmith.model.hf_config import parse_hf_config, read_hf_config
from tunesmith.model.hub import REACH_HUB_S, local_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
SETTINGS = ("config.json", "generation_config.json", CARD)
NOT_SIGNED_IN, NOT_ALLOWED, TAKEN = 401, 403, 409


def push_model(config: PushConfig) -> dict[str, Any]:
    """Upload, in one commit.

    Raises:
        UserError: if the model is incomplete, a token is missing, or the hub rejects it; nothing is uploaded then.
    """
    folder = local_folder(config.model)
    names = _files(folder)
    api = _hub(config.repo)
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        url = api.create_repo(config.repo, private=config.private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            allow_patterns=names,
            commit_message="Upload a model trained with tunesmith",
        )
    except HfHubHTTPError as error:
        raise _refused(error, config.repo) from None
    except (HTTPError, OSError) as error:
        raise _unreachable(str(error)) from None
    notices = [] if CARD in names else [say("it has no model card: write README.md into {folder}", folder=folder)]
    return {
        "repo": url.repo_id,
        "url": str(url),
        "commit": commit.oid,
        "private": config.private,
        "files": {name: (folder / name).stat().st_size for name in names},
        "notices": notices,
    }


def _files(folder: Path) -> list[str]:
    """What belongs to the model, checked.

    Raises:
        UserError: if something is missing, or weights are pickled.
    """
    hf_config = read_hf_config(folder)
    parse_hf_config(hf_config, origin=str(folder))
    load_tokenizer(folder, hf_config)
    weights = weight_files(folder)
    if not weights or any(path.suffix != ".safetensors" for path in weights):
        raise UserError(
            "{folder} contains no weights as safetensors",
            hint="write them so: tunesmith export {folder} --format safetensors --out DIR",
            folder=folder,
        )
    indexes = [path.name for path in folder.glob("*.safetensors.index.json")] if len(weights) > 1 else []
    wanted = [*SETTINGS, *FILES, *indexes, *(path.name for path in weights)]
    return [name for name in wanted if (folder / name).is_file()]


def _hub(repo: str) -> "HfApi":
    """Return the hub's API, after it has answered once in time.

    Raises:
        UserError: for an invalid name, without a login, or if the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(
            "{repo!r} is not a valid repository name",
            hint="write OWNER/NAME, with letters, digits, - . and _: tunesmith push MODEL someone/my-model",
            repo=repo,
        ) from None
    if get_token() is None:
        raise UserError(
            "this machine is not signed in to the Hugging Face Hub",
            hint="hf auth login, with a token that may write; or set HF_TOKEN",
        )
    api = HfApi()
    try:
        api.model_info(repo, timeout=REACH_HUB_S)
    except RepositoryNotFoundError:
        pass  # it is to be made
    except HfHubHTTPError as error:
        raise _refused(error, repo) from None
    except (OfflineModeIsEnabled, HTTPError, OSError) as error:
        raise _unreachable(str(error)) from None
    return api


def _refused(error: Any, repo: str) -> UserError:  # noqa: ANN401  of the hub's library
    status = error.response.status_code
    hints = {
        NOT_SIGNED_IN: say("the token is not valid (any more): hf auth login"),
        NOT_ALLOWED: say("the token may not write there: take one that may write, and a name of your own"),
    }
    return UserError(
        "the hub did not take {repo}: {reason}",
        hint="{next}",
        repo=repo,
        reason=f"{status}, {str(error).splitlines()[0]}",
        next=hints.get(status, say("run the same command again later")),
    )


def _unreachable(reason: str) -> UserError:
    return UserError(
        "the model hub cannot be reached: {reason}",
        hint="check the network, then run the same command again; what was uploaded is not uploaded twice",
        reason=next(iter(reason.splitlines()), ""),
    )
