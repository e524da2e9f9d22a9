"""Files by URI: local ones, and those of web servers on loopback, also of one that lies."""

# pyarrow states no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import os
import threading
from collections.abc import Generator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine import OptionError
from service.collections.storage import Folder, StoreError, local_path, object_place, read_bytes, read_rows, stem_of
from service.ivcap.transfer.limits import Allowance
from tests.standins.hostile_server import CONTENT, HostileServer

pytest.importorskip("pyarrow", reason="pyarrow comes with ray: make development")


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


def test_a_sign_that_ends_web_addresses_is_a_part_of_names(tmp_path: Path) -> None:
    # As the tools of stores and of tables write them: a prefix, and the name as it is.
    (tmp_path / "a").write_bytes(b"another")
    (tmp_path / "a#1?.jpg").write_bytes(b"picture")
    assert read_bytes(f"file://{tmp_path}/a#1?.jpg") == b"picture"
    # With its region stated, pyarrow asks nobody where the bucket is.
    _, name = object_place("s3://reef/dive 1/a#1.jpg?region=us-east-1")
    assert name == "reef/dive 1/a#1.jpg"


@pytest.mark.parametrize("name", ["file://masks", "file://reef/masks", "FILE://reef/a.jpg"])
def test_a_file_of_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"names a machine, (masks|reef), and no path of this one"):
        Folder(name).write("a", b"")
    with pytest.raises(OptionError, match="names a machine"):
        read_bytes(name)
    assert list(tmp_path.iterdir()) == []
    assert local_path("file://localhost/a.jpg") == local_path("FILE:///a.jpg") == Path("/a.jpg")


@pytest.mark.parametrize("name", ["ftp://host/a.jpg", "gopher://a"])
def test_a_uri_that_nothing_reads_is_named(name: str) -> None:
    with pytest.raises(StoreError, match="nothing here reads such a URI"):
        read_bytes(name)


TWENTY = Allowance(20, "raise --max-image-bytes")


def test_a_file_has_a_limit_wherever_it_lies(web: str, tmp_path: Path) -> None:
    (tmp_path / "twenty").write_bytes(bytes(20))
    (tmp_path / "more").write_bytes(bytes(21))
    for place in (web, str(tmp_path), tmp_path.as_uri()):
        assert read_bytes(f"{place}/twenty", TWENTY) == bytes(20)
        with pytest.raises(StoreError, match=r"more: it has more than 20 bytes, .* raise --max-image-bytes"):
            read_bytes(f"{place}/more", TWENTY)


def test_a_local_file_without_end_ends_at_the_limit() -> None:
    with pytest.raises(StoreError, match="more than 20 bytes"):
        read_bytes("/dev/zero", TWENTY)


@pytest.mark.parametrize("path", ["endless", "endless-chunks", "states-much", "gzip", "x-gzip"])
def test_a_web_server_that_lies_is_found_out(path: str) -> None:
    with HostileServer() as liar:
        assert read_bytes(f"{liar.url}/good", TWENTY) == CONTENT
        with pytest.raises(StoreError, match=f"{liar.url}/{path}: .*(more than 20 bytes|packed)"):
            read_bytes(f"{liar.url}/{path}", TWENTY)
        assert liar.asked == ["/good", f"/{path}"], "it is not asked again"
        assert liar.sent_bytes < 32 << 20


def test_few_bytes_that_stand_for_very_many_rows_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    alike = pa.table({"uri": pa.DictionaryArray.from_arrays(pa.array([0] * 21_000_000, pa.int8()), ["file:///a"])})
    parquet.write_table(alike, tmp_path / "many.parquet", compression="zstd", use_dictionary=True)
    assert (tmp_path / "many.parquet").stat().st_size < 100_000
    with pytest.raises(OptionError, match="has 21000000 rows"):
        read_rows(str(tmp_path / "many.parquet"), ["uri"])


@pytest.mark.parametrize(
    ("uri", "stem"),
    [
        ("https://h/a%00b.jpg", "a_b"),
        ("file:///a%0A%1B%5B31mb.jpg", "a_[31mb"),
        ("https://h/a%2F..%2F..%2Fb.jpg", "b"),
        ("https://h/%00", "_"),
        ("https://h/..", ".."),
        ("https://[", "image"),
        ("s3://reef", "image"),
        ("s3://reef/dive#2/a#1.jpg", "a#1"),
        ("s3://reef/a.jpg?region=eu", "a"),
        ("file:///dive/a?#1.jpg", "a?#1"),
        ("https://h/a.jpg#top", "a"),
    ],
)
def test_names_from_addresses_name_files(uri: str, stem: str) -> None:
    assert stem_of(uri) == stem
