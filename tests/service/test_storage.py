"""Files by URI: local ones, and those of a web server on loopback."""

import os
import threading
from collections.abc import Generator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.storage import Folder, StoreError, local_path, read_bytes

pytest.importorskip("fsspec", reason="fsspec comes with ray: make development")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Generator[str]:
    (tmp_path / "q 7.jpg").write_bytes(b"picture")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_of_a_web_server(web: str) -> None:
    assert read_bytes(f"{web}/q%207.jpg") == b"picture"
    with pytest.raises(StoreError, match=r"absent\.jpg: cannot be read"):
        read_bytes(f"{web}/absent.jpg")


def test_a_local_file_is_whole_or_absent(tmp_path: Path) -> None:
    folder = Folder(f"file://{tmp_path}/out")
    assert folder.names("rows") == []
    assert not folder.exists("rows/a b")
    name = folder.write("rows/a-b", b"content")
    assert read_bytes(name) == b"content"
    assert (folder.names("rows"), folder.exists("rows/a-b")) == (["rows/a-b"], True)
    folder.remove("rows/a-b")
    assert folder.names("rows") == []
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        Folder(str(tmp_path / "taken")).write("a", b"")


@pytest.mark.parametrize("name", ["Müll 1.png", "get?file=a", "dive 1#2", "100%.png"])
def test_any_name_is_stored_under_a_uri(tmp_path: Path, name: str) -> None:
    folder = Folder(f"file://{tmp_path}")
    whole = folder.write(name, b"content")
    assert (tmp_path / name).read_bytes() == read_bytes(whole) == b"content"
    folder.write("rows/a", b"")
    assert folder.exists(name)


def test_a_local_name_that_is_no_unicode_is_found() -> None:
    assert local_path("file:///dive/M%FCll.jpg") == Path(os.fsdecode(b"/dive/M\xfcll.jpg"))


@pytest.mark.parametrize("name", ["ftp://host/a.jpg", "gopher://a"])
def test_a_uri_that_nothing_reads_is_named(name: str) -> None:
    with pytest.raises(StoreError, match="nothing here reads such a URI"):
        read_bytes(name)
