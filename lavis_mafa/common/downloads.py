"""Files by URL, each in a folder of its own below the cache, with the hash it had.

LAVIS keeps them by the last part of the URL: b/model.safetensors was a/model.safetensors. Tested in
tests/models/test_downloads.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import urlopen

from filelock import FileLock

from lavis_mafa.common.artifacts import atomic_write, reading
from lavis_mafa.common.hashing import digest, file_sha256
from lavis_mafa.common.progress import progress_bar

SILENCE_S = 60.0  # after which a server is given up
BLOCK = 1 << 20
STATED = re.compile(r"sha256=([0-9a-f]{64})", re.IGNORECASE)
NOTE = "source.json"


def is_url(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def fetched(url: str, cache: str | Path) -> Path:
    """The file at a URL, fetched once into CACHE/downloads; every rank may ask for it.

    Args:
        url: http(s)://…, with `#sha256=HEX` at its end where the file's hash is known.
        cache: a folder, made where it is missing.

    Raises:
        ValueError: it cannot be fetched, breaks off, or has another hash than the URL states or than it had when it
            was fetched.
    """
    address, stated = _parted(url)
    name = re.sub(r"[^\w.-]", "_", unquote(Path(urlsplit(address).path).name))[-100:].lstrip(".") or "file"
    folder = Path(cache).expanduser() / "downloads" / digest(address)
    folder.mkdir(parents=True, exist_ok=True)
    path, note = folder / name, folder / NOTE
    with FileLock(folder / ".lock"):
        if note.is_file():
            _check(path, note, stated)
        else:
            sha256 = _fetch(address, path, stated)
            with atomic_write(note) as file:
                file.write(json.dumps({"url": address, "sha256": sha256}).encode())
    return path


def _parted(url: str) -> tuple[str, str | None]:
    """The URL and the hash that it states."""
    address, fragment = urldefrag(url)
    found = STATED.fullmatch(fragment)
    if fragment and not found:
        raise ValueError(f"{url} ends in #{fragment}: a hash is written #sha256= and 64 digits from 0 to f")
    return address, found[1].lower() if found else None


def _fetch(url: str, path: Path, stated: str | None) -> str:
    """Writes the file at `url` to `path`, whole or not at all; returns its hash."""
    sha256 = hashlib.sha256()
    try:
        with urlopen(url, timeout=SILENCE_S) as answer, atomic_write(path) as file:
            size = answer.length
            with progress_bar(total=size or 0, desc=f"download {path.name}", unit="B", unit_scale=True) as bar:
                while block := answer.read(BLOCK):
                    sha256.update(block)
                    file.write(block)
                    bar.update(len(block))
                if size is not None and bar.n < size:
                    raise HTTPException(f"it breaks off after {bar.n:,} of {size:,} bytes")
            if stated and sha256.hexdigest() != stated:
                raise ValueError(f"{url} has the SHA-256 {sha256.hexdigest()}, not {stated}: it is another file")
    except (OSError, HTTPException) as error:
        raise ValueError(
            f"{url} cannot be downloaded ({error}); download it yourself and give the path of the file"
        ) from error
    return sha256.hexdigest()


def _check(path: Path, note: Path, stated: str | None) -> None:
    """ValueError where the file is not what was fetched, or not what the URL states."""
    remedy = f"Remove {path.parent}, and it is downloaded again."
    with reading(note, "note of a download", remedy):
        kept = str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
    with reading(path, "download", remedy):
        found = file_sha256(path)
    if found != (stated or kept):
        raise ValueError(f"{path} has the SHA-256 {found}, not {stated or kept}. {remedy}")
