"""Files by URL: one cache entry a URL, whole or absent, with a hash that is kept and checked."""

import hashlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lavis_mafa.compat

import pytest
from lavis.common.registry import registry

import lavis_mafa
from lavis_mafa.common.downloads import fetched
from lavis_mafa.models.pretrained import weights_file

FILES = {"/a/model.pth": b"of a", "/b/model.pth": b"of b", "/..%2Fup": b"up", "/": b"root"}


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = b"of a torn file" if self.path == "/torn.pth" else FILES.get(self.path.partition("?")[0], b"")
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content) + 5 * (self.path == "/torn.pth")))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    Handler.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_files_of_one_name_are_two(host: str, tmp_path: Path) -> None:
    for _ in range(2):
        for name in ("a", "b"):
            path = fetched(f"{host}/{name}/model.pth", tmp_path)
            assert path.read_bytes() == f"of {name}".encode() and path.name == "model.pth"
    assert Handler.asked == ["/a/model.pth", "/b/model.pth"]
    assert fetched(f"{host}/a/model.pth?version=2", tmp_path) != fetched(f"{host}/a/model.pth", tmp_path)


def test_lavis_and_ours_keep_them_by_url(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lavis_mafa.register()
    monkeypatch.setitem(registry.mapping["paths"], "cache_root", str(tmp_path))
    modules = [module for name, module in sys.modules.items() if name.startswith("lavis.")]
    found = [vars(module)["download_cached_file"] for module in modules if "download_cached_file" in vars(module)]
    assert len(found) > 5
    for download in found:
        for name in ("a", "b"):
            assert Path(download(f"{host}/{name}/model.pth", check_hash=False)).read_bytes() == f"of {name}".encode()
            assert weights_file(f"{host}/{name}/model.pth").read_bytes() == f"of {name}".encode()
    assert len(Handler.asked) == 2


def test_many_that_ask_at_once_fetch_it_once(host: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: fetched(f"{host}/a/model.pth", tmp_path), range(8)))) == 1
    assert Handler.asked == ["/a/model.pth"]


@pytest.mark.parametrize("path", ["..%2Fup", ""])
def test_a_url_does_not_choose_where_its_file_lies(host: str, tmp_path: Path, path: str) -> None:
    assert fetched(f"{host}/{path}", tmp_path / "cache").resolve().is_relative_to(tmp_path / "cache" / "downloads")


def test_a_hash_that_the_url_states_is_checked(host: str, tmp_path: Path) -> None:
    right = hashlib.sha256(b"of a").hexdigest()
    with pytest.raises(ValueError, match=f"has the SHA-256 {right}, not {'0' * 64}: it is another file"):
        fetched(f"{host}/a/model.pth#sha256={'0' * 64}", tmp_path)
    assert files(tmp_path) == []
    assert fetched(f"{host}/a/model.pth#sha256={right}", tmp_path).read_bytes() == b"of a"
    with pytest.raises(ValueError, match="not 0000"):  # of what is cached, too
        fetched(f"{host}/a/model.pth#sha256={'0' * 64}", tmp_path)
    with pytest.raises(ValueError, match="a hash is written #sha256="):
        fetched(f"{host}/a/model.pth#md5=1", tmp_path)


def test_a_file_that_changed_in_the_cache_is_refused(host: str, tmp_path: Path) -> None:
    path = fetched(f"{host}/a/model.pth", tmp_path)
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"model\.pth has the SHA-256 .*Remove .*downloaded again"):
        fetched(f"{host}/a/model.pth", tmp_path)


@pytest.mark.parametrize("name", ["gone.pth", "torn.pth"])
def test_what_does_not_come_in_full_is_not_kept(host: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} cannot be downloaded .*download it yourself"):
        fetched(f"{host}/{name}", tmp_path)
    assert files(tmp_path) == []
