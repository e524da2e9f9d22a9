"""The zoo: every family is in it, it resumes, judges and renders, and one network goes all the way."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUntypedBaseClass=false

import json
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from time import process_time

import pytest
import yaml

from benchmarks.lab.zoo.__main__ import chosen, main
from benchmarks.lab.zoo.page import Row, page
from benchmarks.lab.zoo.results import LIMIT_LOGITS, Measurement, Store
from benchmarks.lab.zoo.rounding import Rounding
from benchmarks.lab.zoo.runner import export_only, rounding_of, run, telling_line
from benchmarks.lab.zoo.scenarios import CHECKOUT, EXCEPTIONS, INSTALLED, Scenario
from engine.options import PaddleOptions
from engine.runtimes.paddle import PaddleRuntime
from engine.system.machine.hardware import cpu_information, processor_model
from tests.conftest import vendor_warnings_ignored
from tests.engine.runtimes.test_trial import long_program

DEMO = Path(__file__).parents[3] / "demo" / "demo_seagrass.tgz"
PASSES = Measurement(weights_mb=1.25, mismatched_ppm=12.4, logit_error=3.14e-6, classes=3)
STOPPED = Measurement(stopped_at="export", error="ValueError:\n no | axis")


def scenario(name: str) -> Scenario:
    return next(each for each in INSTALLED if each.name == name)


def test_every_registered_family_has_a_scenario() -> None:
    with vendor_warnings_ignored():
        import_module("paddleseg.models")
        from paddleseg.cvlibs import manager
    assert {each.family for each in INSTALLED} == set(manager.MODELS.components_dict)
    backbones = {each.described for each in INSTALLED} - {"as it is"}
    assert backbones <= set(manager.BACKBONES.components_dict)


@pytest.mark.parametrize("scenarios", [INSTALLED, CHECKOUT])
def test_networks_have_names_of_their_own(scenarios: tuple[Scenario, ...]) -> None:
    assert Counter(each.name for each in scenarios).most_common(1)[0][1] == 1


def test_exceptions_are_few_and_of_known_families() -> None:
    assert set(EXCEPTIONS) <= {each.family for each in (*INSTALLED, *CHECKOUT)}
    assert len(set(EXCEPTIONS.values())) <= 5
    assert all(each.endswith(".") for each in EXCEPTIONS.values())


@pytest.mark.parametrize(
    ("measurement", "verdict"),
    [
        (PASSES, "passes"),
        (replace(PASSES, mismatched_ppm=100.0, logit_error=1e-3, classes=2), "passes"),
        (replace(PASSES, mismatched_ppm=100.5), "differs"),
        (replace(PASSES, logit_error=1.1e-3), "differs"),
        (replace(PASSES, mismatched_ppm=100.5, rounding=Rounding(100.5, 0.0)), "within rounding"),
        (replace(PASSES, mismatched_ppm=100.5, rounding=Rounding(100.4, 1.0)), "differs"),
        (replace(PASSES, logit_error=0.2, rounding=Rounding(0.0, 0.2)), "within rounding"),
        (replace(PASSES, classes=1), "one class"),
        (replace(PASSES, mismatched_ppm=100.5, classes=1), "differs"),
        (Measurement(stopped_at="weights", error="no"), "not built"),
        (Measurement(stopped_at="export", error="no"), "not exported"),
        (Measurement(stopped_at="convert", error="no"), "not converted"),
    ],
)
def test_verdict(measurement: Measurement, verdict: str) -> None:
    assert measurement.verdict == verdict


def test_a_result_is_kept_for_its_scenario_and_set(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path / "zoo.json"), scenario("PPHumanSegLite")
    assert store.read(tiny) is None
    written = store.write(tiny, PASSES, 1.04)
    assert (written.measurement, written.seconds) == (PASSES, 1.0)
    assert processor_model(cpu_information(Path("/proc/cpuinfo").read_text())) in written.processor
    assert store.read(tiny) == written
    assert store.read(replace(tiny, model={**(tiny.model or {}), "num_classes": 4})) is None
    assert store.read(replace(tiny, origin="checkout")) is None
    store.write(scenario("UNet"), STOPPED, 2.0)
    assert store.read(tiny) == written


def test_a_result_of_other_versions_is_stale(tmp_path: Path) -> None:
    store, tiny = Store(tmp_path / "zoo.json"), scenario("PPHumanSegLite")
    store.write(tiny, PASSES, 1.0)
    (kept,) = json.loads(store.path.read_text())
    store.path.write_text(json.dumps([{**kept, "key": "another"}]))
    assert store.read(tiny) is None


def test_page() -> None:
    adapted = replace(PASSES, adapters=("flow-size",))
    text = page(
        [
            Row(scenario("PPHumanSegLite"), PASSES),
            Row(scenario("SFNet"), adapted),
            Row(scenario("UNet"), STOPPED),
            Row(scenario("GSCNN"), STOPPED),
            Row(scenario("ENet"), replace(PASSES, mismatched_ppm=121.0, rounding=Rounding(300.2, 2e-3))),
            *(Row(each, None) for each in CHECKOUT if each.name in {"unet", "upernet"}),
        ],
        ["Fast (avx2)", "Slow (sve)", "Fast (avx2)"],
    )
    assert "Measured on: Fast (avx2); Slow (sve)." in text
    assert "| passes | 2 | 0 |" in text
    assert "| not exported | 2 | 0 |" in text
    linked = "[within rounding](#what-does-not-pass)"
    assert f"| ENet | as it is | 1.2 | {linked} | 121 (300) | 3e-06 (2e-03) | 3 |  |" in text
    assert f"- ENet (within rounding): {EXCEPTIONS['ENet']}" in text
    assert "| not measured | 0 | 2 |" in text
    assert "In the deep ResNets of upernet, the last" in text
    assert "| PPHumanSegLite | as it is | 1.2 | passes | 12 | 3e-06 | 3 |  |" in text
    assert "| SFNet | ResNet18\\_vd | 1.2 | passes | 12 | 3e-06 | 3 | flow-size |" in text
    assert "| unet | unet\\_chasedb1\\_128x128\\_40k.yml |  | not measured |" in text
    assert "- `flow-size`: The flow" in text
    assert "- `scales`" not in text
    assert "- UNet (not exported):  `ValueError: no | axis`" in text
    assert f"- GSCNN (not exported): {EXCEPTIONS['GSCNN']} `ValueError: no | axis`" in text


def test_the_telling_line_holds_no_path() -> None:
    said = (
        "Traceback:\n  File x\nRuntimeError: cannot read /home/somebody/models/a.json (at /paddle/core.cc:3)\n  [Hint]"
    )
    assert telling_line(said) == "RuntimeError: cannot read a.json"
    assert telling_line("\n  gone \n away") == "gone"
    assert telling_line("") == "it said nothing"


def test_a_step_that_takes_too_long_is_an_error() -> None:
    found = run(scenario("PPHumanSegLite"), timeout_s=0.2)
    assert (found.stopped_at, found.error) == ("weights", "not done within 0.2 s")


def test_a_configuration_that_a_checkout_lacks_is_an_error(tmp_path: Path) -> None:
    found = run(CHECKOUT[0], tmp_path, timeout_s=60)
    assert found.stopped_at == "weights"
    assert "no such configuration" in found.error


def test_what_is_added_to_a_published_configuration_is_exported_and_told(tmp_path: Path) -> None:
    added = next(each for each in CHECKOUT if each.added)
    published = tmp_path / "configs" / added.published
    published.parent.mkdir(parents=True)
    published.write_text("model: {type: UNet, num_classes: 2}")
    content = yaml.safe_load(added.configuration(tmp_path, tmp_path).read_text())
    assert content == {"_base_": str(published), **(added.added or {})}
    assert json.dumps(added.added) in page([Row(added, None)], [])
    plain = replace(added, added=None)
    assert plain.configuration(tmp_path, tmp_path) == published
    assert json.dumps(added.added) not in page([Row(plain, None)], [])


def test_unknown_networks_are_named() -> None:
    with pytest.raises(SystemExit, match="NoNet"):
        chosen(INSTALLED, "UNet,NoNet")
    names = [each.name for each in chosen(INSTALLED, "UNet,SegmentationTransformer-mla")]
    assert names == ["SegmentationTransformer-mla", "UNet"]


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="not a checkout of PaddleSeg"):
        main(["--paddleseg", str(tmp_path), "--results", str(tmp_path / "results.json")])


def test_a_package_that_is_missing_is_no_result_of_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "engine.errors.RuntimeUnavailableError: PaddleSeg cannot be imported (No module named 'skimage')"

    def stopped(*_arguments: object, **_options: object) -> Measurement:
        return Measurement(stopped_at="weights", error=missing)

    monkeypatch.setattr("benchmarks.lab.zoo.__main__.run", stopped)
    with pytest.raises(SystemExit, match="skimage"):
        main(["--only", "ENet", "--results", str(tmp_path / "results.json"), "--page", str(tmp_path / "zoo.md")])
    assert Store(tmp_path / "results.json").read(scenario("ENet")) is None


@pytest.mark.long
def test_one_network_all_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--only", "PPHumanSegLite", "--results", str(tmp_path / "results.json")]
    main([*shared, "--page", str(tmp_path / "zoo.md")])
    assert capsys.readouterr().out.startswith("PPHumanSegLite: passes (")
    result = Store(tmp_path / "results.json").read(scenario("PPHumanSegLite"))
    assert result is not None
    assert result.measurement.classes is not None
    assert result.measurement.classes >= 2
    main([*shared, "--page", str(tmp_path / "again.md")])
    assert capsys.readouterr().out == ""
    assert (tmp_path / "again.md").read_bytes() == (tmp_path / "zoo.md").read_bytes()


@pytest.mark.long
def test_paddle_cannot_trace_opencv_in_a_network() -> None:
    found = run(scenario("GSCNN"))
    assert found.stopped_at == "export"
    assert "TypeError: 'paddle.base.libpaddle.pir.Value' object cannot be interpreted as an integer" in found.error


@pytest.mark.long
def test_paddle_prepares_long_programs_with_ever_more_time_for_each_operator(tmp_path: Path) -> None:
    short, long = (_seconds_to_first_run(count, tmp_path / str(count)) for count in (1000, 4000))
    assert long > 8 * short


def _seconds_to_first_run(operators: int, folder: Path) -> float:
    """Processor time from loading a program of so many operators, which do next to nothing, to its first result."""
    program = long_program(operators, folder)
    started = process_time()
    # It ends its loading with a first run.
    PaddleRuntime(program, PaddleOptions(threads=1)).close()
    return process_time() - started


@pytest.mark.long
@pytest.mark.parametrize("name", ["ENet", "SegNet"])
def test_rounding_moves_what_unpooling_puts_back_in_paddle_itself(name: str, tmp_path: Path) -> None:
    export_only(scenario(name), tmp_path / "exported.tgz")
    assert rounding_of(tmp_path / "exported.tgz").logit_error > LIMIT_LOGITS


@pytest.mark.long
def test_rounding_changes_little_of_a_trained_network() -> None:
    found = rounding_of(DEMO)
    assert 0 < found.logit_error < 1e-5
    assert found.mismatched_ppm < 10


@pytest.mark.long
def test_the_attention_of_vit_adapter_needs_no_extension() -> None:
    found = run(scenario("UPerNetViTAdapter"))
    assert found.verdict == "passes"
    assert "deformable-attention" in found.adapters
