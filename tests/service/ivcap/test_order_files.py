"""Downloads of orders, many at a time."""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ivcap_sdk_service.cio.readable_proxy import ReadableProxy  # pyright: ignore[reportMissingTypeStubs]

from service.ivcap.items import DownloadedItem, FetchError
from service.ivcap.order_files import downloaded
from service.ivcap.transfer.limits import Allowance, RetryPolicy
from service.ivcap.transfer.transport import limited_requests
from tests.standins.data_proxy import DataProxy

LIMIT = Allowance(1 << 20, "raise PSEG_HTTP_IMAGE_BYTES")
NUMBER = 40


def test_downloads_of_several_threads_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, work = tmp_path / "temporary", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(tempfile.gettempdir())

    with DataProxy() as proxy, limited_requests(RetryPolicy(retries=0)):
        storage = proxy.storage()
        contents = [f"image {number}".encode() * (number + 1) for number in range(NUMBER)]
        contents[7] = bytes((1 << 20) + 1)
        urns = [storage.put(f"q{number}.jpg", content) for number, content in enumerate(contents)]
        items = [downloaded(ReadableProxy(f"{storage.url}/{urn}", urn), work, LIMIT) for urn in urns]

        def content_of(item: DownloadedItem) -> bytes | str:
            try:
                return item.fetch().read_bytes()
            except FetchError as error:
                return str(error)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with ThreadPoolExecutor(8) as pool:
                fetched = list(pool.map(content_of, items))
        finally:
            done.set()
            watcher.join()
    refused = fetched.pop(7)
    assert isinstance(refused, str)
    assert refused.startswith("urn:ivcap:artifact:q7.jpg: cannot be fetched (it has more than 1048576 bytes")
    assert fetched == contents[:7] + contents[8:]
    assert seen == {str(temporary)}
    assert list(temporary.iterdir()) == []
    for item in items:
        item.release()
    assert list(work.iterdir()) == []
