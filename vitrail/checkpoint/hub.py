"""Weights from the Hugging Face Hub: found, fetched on from where a download broke off, compared
with the checksum that the Hub tells, kept; and one sentence for whatever goes wrong.

huggingface_hub speaks the protocol, shows progress and keeps what it fetched, in $HF_HUB_CACHE;
$HF_ENDPOINT names another server, $HF_TOKEN who asks. What is kept is found without a network.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.checkpoint.door import first_line
from vitrail.errors import CheckpointError

PREFIX = "hf-hub:"
_BLOCK = 1 << 20


class Facts(NamedTuple):
    """What the Hub says of a repository: its licence as its card names it, and the files with
    their bytes, None where it does not say."""

    licence: str
    files: dict[str, int | None]


def parsed(reference: str) -> tuple[str, str]:
    """Return the repository and the file, empty for none, of hf-hub:owner/name[/file].

    Raises CheckpointError.
    """
    parts = reference.removeprefix(PREFIX).split("/")
    if len(parts) < 2 or not all(re.fullmatch(r"[\w.-]+", part) for part in parts[:2]):
        raise CheckpointError(
            f"{reference[:200]} names no repository: write hf-hub:owner/name, or hf-hub:owner/name/"
            "file"
        )
    return "/".join(parts[:2]), "/".join(parts[2:])


def fetched(reference: str, wanted: Sequence[str]) -> Path:
    """Return the file that a reference means, or the first of the `wanted` names in its repository.

    Shards that an index names are fetched too. Raises CheckpointError.
    """
    repo, file = parsed(reference)
    try:
        chosen = file or next((name for name in wanted if name in _names(repo, wanted)), None)
        if chosen is None:
            raise CheckpointError(
                f"{reference} holds no {wanted[1]} or {wanted[3]}: name the file, as in "
                f"{PREFIX}{repo}/weights.pth"
            )
        path = _file(repo, chosen)
        if chosen.endswith(".index.json"):
            for shard in sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values())):
                _file(repo, shard)
        return path
    except CheckpointError:
        raise
    except Exception as error:
        # The client, its transport and the disk have no common error.
        raise CheckpointError(f"{reference} cannot be downloaded: {_said(error)}") from error


def beside(reference: str, name: str) -> Path | None:
    """Return another file of a reference's repository, None where it has none or is not reached."""
    try:
        return _file(parsed(reference)[0], name)
    except CheckpointError:
        raise
    except Exception:
        return None  # what lies beside weights is not needed to read them


def kept(reference: str, wanted: Sequence[str]) -> Path | None:
    """Return where the weights of a reference are kept already, None if they are not."""
    repo, file = parsed(reference)
    found = (_cached(repo, name) for name in ([file] if file else wanted))
    return next((path for path in found if path), None)


def facts(reference: str) -> Facts:
    """Ask the Hub about a repository. Raises CheckpointError."""
    repo, _ = parsed(reference)
    try:
        told = _client().model_info(repo, files_metadata=True, timeout=10)
    except Exception as error:
        raise CheckpointError(f"{reference} cannot be asked about: {_said(error)}") from error
    card: Any = told.card_data
    licence = str((card.get("license") if card else None) or "not told")
    return Facts(licence, {one.rfilename: one.size for one in told.siblings or ()})


# ---- one file ----------------------------------------------------------------------------


def _client() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _folder() -> str | None:
    return os.environ.get("HF_HUB_CACHE")


def _cached(repo: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, cache_dir=_folder())
    return Path(found) if isinstance(found, str) else None


def _names(repo: str, wanted: Sequence[str]) -> list[str]:
    """Return the files of a repository; without a network those of `wanted` that are kept."""
    try:
        return _client().list_repo_files(repo)
    except Exception:
        held = [name for name in wanted if _cached(repo, name)]
        if not held:
            raise
        return held


def _file(repo: str, file: str) -> Path:
    before = _cached(repo, file)
    path = Path(_client().hf_hub_download(repo, file, cache_dir=_folder()))
    if before is None or before.resolve() != path.resolve():
        _check(path, f"{PREFIX}{repo}/{file}")
    return path


def _check(path: Path, reference: str) -> None:
    """Compare a file with the checksum that names it in the cache: the sha256 of large files, git's
    digest of small ones."""
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", blob.name):
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    else:
        return
    with blob.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != blob.name:
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise CheckpointError(
            f"{reference} arrived with other bytes than the Hub says it has: it was removed, fetch "
            "it again"
        )


# ---- what went wrong ---------------------------------------------------------------------


def _said(error: BaseException) -> str:
    """Say in one sentence why a download failed, and what to do."""
    chain = list(_chain(error))
    statuses = [getattr(getattr(e, "response", None), "status_code", None) for e in chain]
    status = next((s for s in statuses if s is not None), None)
    kinds = {kind.__name__ for e in chain for kind in type(e).__mro__}
    full = any(getattr(e, "errno", None) == errno.ENOSPC for e in chain)
    if full or any("Not enough free disk space" in str(e) for e in chain):
        return "the disk is full: free some space, or name another folder in HF_HUB_CACHE"
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set and it is not kept: unset it once, or give a file"
    if "GatedRepoError" in kinds:
        return "its terms must be accepted first: do so on its page, then set HF_TOKEN"
    if status in (401, 403):
        return "it does not exist or is not public: check the name, or set HF_TOKEN"
    if status == 404:
        return "it does not exist: check the name of the repository and of the file"
    if status == 429 or (status is not None and status >= 500):
        return f"the Hub answers {status}: try again later, or give a file"
    if any("Consistency check failed" in str(e) for e in chain):
        return "it was cut off: fetch it again, it goes on from there"
    if kinds & {"TimeoutException", "TimeoutError"}:
        return "the Hub does not answer in time: try again later, or give a file"
    if kinds & {"TransportError", "ConnectionError"}:
        return "the Hub cannot be reached: check the network and HF_ENDPOINT, or give a file"
    return f"{first_line(error)}: check the name and the network, or give a file"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
