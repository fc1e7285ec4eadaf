"""Asks the model hub for one small thing, by the library that will download; run in a process of its own."""

import sys

from tunesmith.doctor.children import found

PATIENCE_S = 4.0


def main() -> None:
    """Write the fields of `HubFacts`."""
    from huggingface_hub import HfApi, constants

    found(endpoint=constants.ENDPOINT, is_offline=constants.HF_HUB_OFFLINE)
    if constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().model_info(sys.argv[1], timeout=PATIENCE_S)
    except Exception as error:  # noqa: BLE001  whatever it raises is what was to be found
        said = next(iter(str(error).splitlines()), "")
        found(error=f"{type(error).__name__}: {said}")


if __name__ == "__main__":
    main()
