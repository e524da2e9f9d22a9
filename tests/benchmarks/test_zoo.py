"""The zoo: every family is in it, it resumes, judges and renders, and one network goes all the way."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import inspect
import shutil
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from benchmarks.zoo import changes
from benchmarks.zoo.__main__ import FAMILIES, chosen, due, main, rows
from benchmarks.zoo.child import telling_line
from benchmarks.zoo.recipes import RECIPES, Recipe
from benchmarks.zoo.results import Form, Measurement, Result, Store, installed_versions, key_of
from benchmarks.zoo.runner import run
from benchmarks.zoo.table import Row, page, statement

from tests.conftest import vendor_warnings_ignored

PASSES = Measurement(parameters_m=1.25, sizes=((256, 256),), mismatched_ppm=12.4, logit_error=3.14e-6, classes=3)
TINY = next(each for each in RECIPES if each.name == "PPHumanSegLite")


def result(recipe: Recipe, measurement: Measurement, form: Form = "pir") -> Result:
    versions = installed_versions()
    return Result(recipe.name, form, key_of(recipe, form, versions), versions, measurement, 1.0)


def test_every_registered_family_has_a_recipe() -> None:
    with vendor_warnings_ignored():
        import_module("paddleseg.models")
        from paddleseg.cvlibs import manager
    registered = set(manager.MODELS.components_dict)
    assert {each.family for each in RECIPES} == registered
    assert len(registered) == FAMILIES
    backbones = {each.backbone.name for each in RECIPES if each.backbone}
    assert backbones <= set(manager.BACKBONES.components_dict)


def test_recipes_have_names_of_their_own() -> None:
    assert Counter(each.name for each in RECIPES).most_common(1)[0][1] == 1


def test_every_change_is_stated_and_used() -> None:
    offered = {name for name, each in vars(changes).items() if inspect.isgeneratorfunction(inspect.unwrap(each))}
    assert offered == {name for each in RECIPES for name in each.changes}
    for name in offered:
        assert statement(name).endswith(".")


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "passes"),
        ({"mismatched_ppm": 100.0, "logit_error": 1e-3, "classes": 2}, "passes"),
        ({"mismatched_ppm": 100.5}, "differs"),
        ({"logit_error": 1.1e-3}, "differs"),
        ({"classes": 1}, "one class"),
        ({"mismatched_ppm": None, "conversion_error": "no"}, "not converted"),
        ({"mismatched_ppm": None, "run_error": "no"}, "Paddle does not run it"),
        ({"mismatched_ppm": None, "export_error": "no"}, "Paddle does not export it"),
        ({"mismatched_ppm": None, "crash": "no"}, "crashed"),
    ],
)
def test_verdict(changed: dict[str, object], verdict: str) -> None:
    assert replace(PASSES, **changed).verdict == verdict  # pyright: ignore[reportArgumentType]


def test_only_what_is_due_is_measured(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = key_of(TINY, "pir", installed_versions())
    assert due(store.read(TINY, "pir"), key, redo=False, retry=False)
    store.write(TINY, result(TINY, PASSES))
    found = store.read(TINY, "pir")
    assert found == result(TINY, PASSES)
    assert not due(found, key, redo=False, retry=True)
    assert due(found, key, redo=True, retry=False)
    store.write(TINY, result(TINY, replace(PASSES, classes=1)))
    assert not due(store.read(TINY, "pir"), key, redo=False, retry=False)
    assert due(store.read(TINY, "pir"), key, redo=False, retry=True)


@pytest.mark.parametrize(
    ("recipe", "form", "versions"),
    [
        (replace(TINY, batch=1), "pir", installed_versions()),
        (TINY, "pdmodel", installed_versions()),
        (TINY, "pir", installed_versions() | {"paddlepaddle": "9"}),
    ],
)
def test_another_recipe_form_or_version_is_measured_again(recipe: Recipe, form: Form, versions: dict[str, str]) -> None:
    other = key_of(recipe, form, versions)
    assert due(result(TINY, PASSES), other, redo=False, retry=False)


def test_a_stale_result_is_not_in_the_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(TINY, replace(result(TINY, PASSES), key="another"))
    assert not any(row.results for row in rows(store))


def test_page() -> None:
    changed = Recipe("UNet", variant="wide", changes=("weights_not_loaded",), batch=1)
    refused = replace(PASSES, refused_size="331×517: ValueError: 331 is odd")
    text = page(
        [
            Row(TINY, {"pir": result(TINY, PASSES), "pdmodel": result(TINY, refused, "pdmodel")}),
            Row(changed, {"pir": result(changed, Measurement(export_error="ValueError:\n no | axis"))}),
        ],
        61,
    )
    assert "2 of the 61 families" in text
    assert "| passes | 1 | 1 |" in text
    assert "| Paddle does not export it | 1 | 0 |" in text
    assert "| not measured yet | 0 | 1 |" in text
    assert (
        "| PPHumanSegLite | as it is | 1.25 | passes | 12 | 3e-06 | 3 | passes | 12 | 3e-06 | 3 | [sizes](#sizes) |"
        in text
    )
    assert f"- {statement('weights_not_loaded')} (UNet-wide)" in text
    assert "- PPHumanSegLite, pdmodel: at 256×256. Paddle at `331×517: ValueError: 331 is odd`" in text
    assert "- UNet-wide, pir: Paddle does not export it: `ValueError: no | axis`" in text


def test_the_telling_line_holds_no_path() -> None:
    said = (
        "Traceback:\n  File x\nRuntimeError: cannot read /home/somebody/models/a.json (at /paddle/core.cc:3)\n  [Hint]"
    )
    assert telling_line(said) == "RuntimeError: cannot read a.json"
    assert telling_line("\n  gone \n away") == "gone"
    assert telling_line("") == "it said nothing"


def test_a_step_that_takes_too_long_is_a_crash() -> None:
    found = run(TINY, "pir", timeout_s=0.2).measurement
    assert found.verdict == "crashed"
    assert found.crash == "export: not done within 0.2 s"


def test_unknown_families_are_named() -> None:
    with pytest.raises(SystemExit, match="NoNet"):
        chosen("UNet,NoNet")
    assert [each.name for each in chosen("UNet,SegmentationTransformer-mla")] == ["SegmentationTransformer-mla", "UNet"]


@pytest.mark.long
def test_one_network_all_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--only", "PPHumanSegLite", "--form", "pir", "--results", str(tmp_path / "results")]
    main([*shared, "--page", str(tmp_path / "zoo.md"), "--keep", str(tmp_path / "kept")])
    assert "PPHumanSegLite pir: passes" in capsys.readouterr().out
    assert "| PPHumanSegLite | as it is | 0.24 | passes |" in (tmp_path / "zoo.md").read_text(encoding="utf-8")
    kept = tmp_path / "kept" / "PPHumanSegLite.pir"
    assert {"model.json", "model.onnx"} <= {each.name for each in kept.iterdir()}
    shutil.rmtree(kept)
    main([*shared, "--page", str(tmp_path / "again.md")])
    assert capsys.readouterr().out == ""
    assert (tmp_path / "again.md").read_bytes() == (tmp_path / "zoo.md").read_bytes()
