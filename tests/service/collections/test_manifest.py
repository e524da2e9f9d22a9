"""Manifests: every image once, by a name that every machine understands."""

from pathlib import Path

import pytest

from engine import OptionError
from service.collections import storage
from service.collections.manifest import read_manifest
from service.commands.terminal import ExitStatus
from tests.service.bundles import bundle_folder
from tests.service.commands.test_cli import halves, pseg, pseg_error

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow comes with ray: make development")
parquet = pytest.importorskip("pyarrow.parquet")


def test_a_manifest_names_every_image_once(tmp_path: Path) -> None:
    photo = halves(tmp_path / "in" / "b c.png")
    halves(tmp_path / "in" / "a.png")
    out = tmp_path / "m.parquet"
    remote = "s3://reef/dive 1/q7.jpg"
    (tmp_path / "link").symlink_to(tmp_path / "in")
    names = (photo, tmp_path / "in", f"{tmp_path}/in/../in", tmp_path / "link", remote, remote)
    names += (f"file://{tmp_path}/in/b c.png", "s3://reef/dive%201/q7.jpg")
    outcome = pseg("manifest", *names, "--out", out)
    assert outcome.stdout == f"3 images -> {out}\n"
    folder = f"file://{tmp_path}/in"
    assert parquet.read_table(out).to_pydict() == {"uri": [f"{folder}/b%20c.png", f"{folder}/a.png", remote]}


def test_a_manifest_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent.png"):
        assert str(tmp_path / name) in pseg_error("manifest", tmp_path / name, "--out", tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"uri": ["file:///a", "file:///b", "file:///a"]}, "2 rows name images that other rows name, too (file:///a"),
        ({"uri": ["file:///a b", "file:///c", "file:///a%20b"]}, "too (file:///a b, file:///a%20b)"),
        ({"uri": ["s3://reef/a%20b", "s3://reef/a b"]}, "2 rows name images that other rows name, too"),
        ({"path": ["file:///a"]}, "has no column uri (there are: path)"),
        ({"uri": ["a.png"]}, "1 row holds no absolute URI, 'a.png'"),
        ({"uri": ["file:///a", None]}, "1 row holds no absolute URI, None"),
        ({"uri": [1, 2]}, "2 rows hold no absolute URI, 1"),
        ({"uri": []}, "names no image"),
        (None, "is not a Parquet file"),
    ],
)
def test_a_manifest_that_cannot_be_done_is_refused(
    bundle: Path, tmp_path: Path, columns: dict[str, list[object]] | None, message: str
) -> None:
    manifest = tmp_path / "m.parquet"
    if columns is None:
        manifest.write_bytes(b"PAR1 no table")
    else:
        parquet.write_table(pyarrow.table(columns), manifest)
    said = pseg_error("scale", bundle, manifest, "--out", tmp_path / "o", "--address", "local")
    assert str(manifest) in said
    assert message in said
    assert not (tmp_path / "o").exists()


def test_a_manifest_or_cluster_out_of_reach_takes_nothing_away(bundle: Path, tmp_path: Path) -> None:
    out, manifest = tmp_path / "o", tmp_path / "m.parquet"
    assert "cannot be read" in pseg_error("scale", bundle, manifest, "--out", out, "--address", "local")
    pseg("manifest", halves(tmp_path / "a.png"), "--out", manifest)
    out.mkdir()
    (out / "ledger.parquet").write_bytes(b"of an earlier run")
    pytest.importorskip("ray", reason="ray is not installed: make development")
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9"):
        said = pseg_error("scale", bundle, manifest, "--out", out, "--address", address, "--overwrite")
        assert f"no cluster at {address}" in said
    assert (out / "ledger.parquet").read_bytes() == b"of an earlier run"


def test_a_bundle_that_is_none_ends_before_the_cluster(tmp_path: Path) -> None:
    manifest = tmp_path / "m.parquet"
    pseg("manifest", halves(tmp_path / "a.png"), "--out", manifest)
    (tmp_path / "b.tgz").write_text("no archive")
    garbage = bundle_folder(tmp_path / "garbage", network=b"garbage")
    for bad in (tmp_path / "b.tgz", garbage):
        outcome = pseg("scale", bad, manifest, "--out", tmp_path / "o", "--address", "127.0.0.1:9")
        assert outcome.status == ExitStatus.UNUSABLE_MODEL
        assert str(bad) in outcome.stderr


def test_a_manifest_that_unfolds_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"uri": pyarrow.array(["s3://a/b"]).take(pyarrow.array([0] * 10_000_001))}), rows)
    assert rows.stat().st_size < 1 << 20
    with pytest.raises(OptionError, match=r"rows\.parquet: has 10000001 rows"):
        read_manifest(str(rows))
    monkeypatch.setattr(storage, "_MOST_TABLE_BYTES", 1 << 24)
    long = tmp_path / "long.parquet"
    parquet.write_table(pyarrow.table({"uri": [f"s3://a/{'b' * (1 << 20)}"] * 64}), long, compression="zstd")
    assert long.stat().st_size < 1 << 16
    with pytest.raises(OptionError, match=r"long\.parquet: unfolds to more than"):
        read_manifest(str(long))
