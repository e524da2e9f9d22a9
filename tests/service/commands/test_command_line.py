"""What makes the command pleasant in a terminal, in a pipe and in a log."""

import csv
import io
import json
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.results.markdown import Table
from converters.precision.quantization import QuantizationError
from engine.images.quality import STATISTICS_NAME, statistics_json
from engine.images.statistics import PictureStatistics
from service.commands.terminal import ExitStatus, exit_status_of, print_table, results_console, step_shown
from tests.service.bundles import bundle_folder, strongest_band_network
from tests.service.commands.test_cli import PSEG, pseg, pseg_process
from tests.service.pictures import BLUE, GREEN, RED, painted


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "a.png").write_bytes(painted(RED))
    (folder / "b.png").write_bytes(painted(GREEN, BLUE))
    return folder


@pytest.mark.parametrize("arguments", [(), ("predict",), ("merge",)])
def test_h_is_help(arguments: tuple[str, ...]) -> None:
    short, long = pseg(*arguments, "-h"), pseg(*arguments, "--help")
    assert short.status == ExitStatus.DONE
    assert short == long


@pytest.mark.parametrize(
    ("words", "position", "completed"), [("pseg pre", 1, "predict"), ("pseg predict --run", 2, "--runtime")]
)
def test_shells_complete_commands_and_options(words: str, position: int, completed: str) -> None:
    asked = {"_PSEG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    assert pseg_process(**asked).stdout.split() == [completed]


def test_a_table_goes_to_standard_output_and_everything_else_to_stderr(
    bundle: Path, photographs: Path, tmp_path: Path
) -> None:
    done = pseg("predict", bundle, photographs, "--out", tmp_path / "masks", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["status"], row["cover_red"], row["cover_green"]) for row in rows] == [
        ("ok", "1.0", "0.0"),
        ("ok", "0.0", "0.5"),
    ]
    assert "a.png" in done.stderr
    merged = pseg("merge", tmp_path / "masks", "--out", tmp_path / "merged", "--csv", "-")
    assert [row["cover_red"] for row in csv.DictReader(io.StringIO(merged.stdout))] == ["1.0", "0.0"]
    assert not Path("-").exists()


def test_a_table_and_records_do_not_share_standard_output(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    done = pseg("predict", bundle, photographs, "--out", tmp_path / "masks", "--csv", "-", "--json")
    assert (done.status, done.stdout) == (ExitStatus.WRONG_REQUEST, "")
    assert "--csv: standard output holds either a table or the records of --json" in done.stderr


def test_a_quiet_run_tells_failures_only(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    done = pseg("predict", bundle, photographs, "--out", out, "--quiet")
    assert (done.status, done.stdout, done.stderr) == (ExitStatus.DONE, "", "")
    assert len(list(out.glob("*.pseudo.png"))) == 2
    (photographs / "broken.png").write_bytes(b"broken")
    done = pseg("predict", bundle, photographs / "broken.png", "--out", tmp_path / "other", "--quiet")
    assert (done.status, done.stdout) == (ExitStatus.INCOMPLETE, "")
    assert [line for line in done.stderr.splitlines() if not line.startswith("failed: ")] == []


def test_ctrl_c_says_so_in_one_line(bundle: Path, tmp_path: Path) -> None:
    command = [PSEG, "bench", str(bundle), "--cache-dir", str(tmp_path / "cache")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    assert started.stderr.readline().startswith("preparing")
    started.send_signal(signal.SIGINT)
    printed, told = started.communicate(timeout=60)
    assert (started.returncode, printed) == (130, "")
    assert told.splitlines()[-1] == "interrupted"


def test_steps_are_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with step_shown("preparing") as show:
        for step in ("measuring a", "measuring b", "measuring a"):
            show(step)
    assert capsys.readouterr().err.splitlines() == ["preparing", "measuring a", "measuring b"]


HEADER = ("configuration", "p50 ms", "p90 ms", "images/s", "peak MiB", "smallest class IoU", "verdict")
ROWS = (("cpu fp32, 2 threads", "120.5", "130.5", "8.20", "410", "1.0000", "chosen"),)


@pytest.fixture(params=[40, 80, 200])
def console(request: pytest.FixtureRequest) -> Console:
    return Console(width=request.param, file=io.StringIO(), markup=False)


def test_a_table_fits_the_terminal_and_cuts_nothing(console: Console) -> None:
    print_table(console, "measured", Table(HEADER, ROWS))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue().replace("\u00a0", " ")
    assert max(map(len, printed.splitlines())) <= console.width
    assert [cell for cell in (*HEADER[1:], *ROWS[0]) if cell not in printed] == []


def test_tables_in_a_pipe_heed_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert results_console(240).width == 80
    monkeypatch.delenv("COLUMNS")
    assert results_console(240).width == 240


def test_a_refused_int8_model_is_a_missed_limit() -> None:
    assert exit_status_of(QuantizationError("missed", ())) == ExitStatus.INCOMPLETE


def fact(name: str, told: str) -> str:
    """The value behind a name in a table of facts, its lines joined."""
    lines = told.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f" {name} "))
    ends = (number for number, line in enumerate(lines) if number > start and not line.startswith("   "))
    found = [lines[start].removeprefix(f" {name} "), *lines[start + 1 : next(ends)]]
    return " ".join(each.strip() for each in found)


@pytest.mark.parametrize("command", ["inspect", "doctor"])
def test_what_a_bundle_is_and_where_it_comes_from(command: str, tmp_path: Path) -> None:
    folder = bundle_folder(tmp_path / "files")
    told = pseg(command, folder, "--cache-dir", tmp_path / "cache").stdout
    assert fact("licence", told) == 'not stated; add "license" to meta.json'
    assert fact("made from", told) == "no other bundle"
    assert "`pseg convert --calibrate` adds" in fact("statistics", told)
    assert fact("takes", told) == "images of 3 bands (RGB)"
    assert fact("returns", told) == "scores: logits (ends in no sigmoid, softmax or argmax)"
    assert fact("classes", told) == "one for each pixel"
    assert fact("tuned profile", told) == "none"
    assert fact("onnx", told) == "fp32, without a certificate"
    meta = json.loads((folder / "meta.json").read_text())
    assert fact("evaluation", told) == "no options stated"
    meta["license"] = "CC-BY-4.0"
    meta["evaluation"] = {"crop_size": [769, 512], "stride": [512, 400]}
    meta["derived_from"] = {"bundle": "b" * 8, "change": "cut", "derived_from": {"bundle": "a" * 8}}
    (folder / "meta.json").write_text(json.dumps(meta))
    grey = PictureStatistics(0.1, 200.0, 0.0, (90.0, 100.0, 110.0), (20.0, 20.0, 20.0))
    (folder / STATISTICS_NAME).write_bytes(statistics_json([grey] * 9))
    told = pseg(command, folder, "--cache-dir", tmp_path / "cache").stdout
    assert fact("licence", told) == "CC-BY-4.0"
    assert fact("evaluation", told) == "PaddleSeg evaluates it with --crop-size 769 512 --stride 512 400"
    assert fact("made from", told) == "bbbbbbbb: cut aaaaaaaa"
    assert fact("statistics", told) == "of 9 pictures: photographs unlike them are flagged"
    (folder / "meta.json").write_text(json.dumps({**meta, "evaluation": {"crop_size": [769, 512]}}))
    told = " ".join(pseg("inspect", folder).stdout.split())
    assert "meta.json: evaluation: crop_size: a sliding window needs" in told
    (folder / STATISTICS_NAME).write_text("[]")
    assert "statistics.json is ignored" in fact("statistics", pseg("inspect", folder).stdout)


def test_a_bundle_of_the_first_version_runs_and_its_certificate_is_told_apart(
    photographs: Path, tmp_path: Path
) -> None:
    """The certificate word for word, but for the digest of the model: it said nothing of precision and pictures."""
    folder = bundle_folder(tmp_path / "first")
    ran = {"bundle": "e" * 64, "model": "d" * 64, "runtime": "paddle", "provider": "paddle-cpu", "precision": "fp32"}
    ran |= {"threads": 2, "fallbacks": [], "versions": {"numpy": "2.4.6", "paddlepaddle": "3.2.2"}}
    certificate = {
        "images": 3,
        "pixel_agreement": 1.0,
        "mismatched_ppm": 0.0,
        "class_iou": {"red": 1.0, "green": 1.0, "blue": 1.0},
        "min_class_iou": 1.0,
        "gated_classes": ["red", "green", "blue"],
        "max_cover_error": 0.0,
        "max_abs_logit_error": 0.00009250640869140625,
        "logit_range": 23.00955581665039,
        "worst_image": "generated 517x331",
        "reference": ran,
        "candidate": {**ran, "runtime": "onnx", "provider": "cpu"},
    }
    (folder / "onnx" / "fp32" / "parity.json").write_text(json.dumps(certificate, indent=2))
    told = fact("onnx", pseg("inspect", folder).stdout)
    assert told.startswith("fp32, without a certificate: what lies beside it is of another model, or was written by")
    (record,) = pseg("predict", folder, photographs / "b.png", "--out", tmp_path / "o", "--json").records
    assert [each["cover"] for each in record["cover"]] == [0, 0.5, 0.5]


@pytest.mark.parametrize("option", [("--size", "64x64"), ("--max-img-size", "-1")])
def test_what_goes_with_measure_is_refused_without_it(option: tuple[str, str], tmp_path: Path) -> None:
    outcome = pseg("inspect", bundle_folder(tmp_path / "files"), *option)
    assert outcome.status == ExitStatus.WRONG_REQUEST
    assert f"{option[0]}: it needs --measure" in outcome.stderr


def test_statistics_are_not_asked_for_where_no_photograph_serves(tmp_path: Path) -> None:
    several = bundle_folder(tmp_path / "five", network=strongest_band_network(bands=5), transforms=[])
    assert (
        fact("statistics", pseg("inspect", several).stdout)
        == "none: only photographs of colours are compared with others"
    )


def test_inspect_shows_the_certificate_of_the_model_it_belongs_to(tmp_path: Path) -> None:
    demo = Path(__file__).parents[3] / "demo" / "demo_seagrass.tgz"
    (model,) = json.loads(pseg("inspect", demo, "--json").stdout)["onnx"]
    assert (model["certificate"]["images"], model["certificate"]["compared_on"]) == (3, "generated")
    with tarfile.open(demo) as archive:
        archive.extractall(tmp_path / "copy", filter="data")
    folder = tmp_path / "copy" / "onnx" / "fp32"
    for content in (b"{}", (folder / "parity.json").read_bytes().replace(model["digest"].encode(), b"0" * 64)):
        (folder / "parity.json").write_bytes(content)
        assert "fp32, without a certificate" in pseg("inspect", tmp_path / "copy").stdout
