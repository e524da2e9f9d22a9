"""Every generation of bundle that exporters wrote, and the damaged ones, refused by file and field."""

import codecs
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.bundle.bundle import (
    Bundle,
    DeclaredOutput,
    OnnxModel,
    SegmentationClass,
    class_of_index,
    distinct_names,
    file_digest,
    open_bundle,
)
from engine.errors import BundleError, UnsupportedTransformError
from engine.options import Precision
from engine.transforms import Normalize, Resize

RESIZE = {"type": "Resize", "target_size": [32, 16]}
RANDOM = {"type": "RandomHorizontalFlip"}
META: Mapping[str, Any] = {
    "$schema": "urn:ibenthos:schema:paddle.seg.model.1",
    "name": "seagrass",
    "model": {"anything": 1},
    "classes": [
        {"id": "urn:ibenthos:segmentation:class:bare", "name": "Bare sand", "def_color": [1, 2, 3]},
        {"name": "Sea grass / dense", "def_color": [4, 5, 6, 128]},
        {"name": "海草", "def_color": []},
        {},
    ],
    "shape": [None, 3, None, None],
}

Files = dict[str, bytes]


def deploy(**entries: object) -> bytes:
    """Text of a deploy.yaml."""
    return yaml.safe_dump({"Deploy": entries}).encode()


def files_of(**changes: object) -> Files:
    """A good PIR bundle, with other entries in deploy.yaml."""
    entries = {"model": "model.json", "params": "model.pdiparams", "transforms": [RESIZE, {"type": "Normalize"}]}
    return {
        "deploy.yaml": deploy(**(entries | changes)),
        "model.json": b'{"program": {}}',
        "model.pdiparams": b"weights",
        "meta.json": json.dumps(META).encode(),
    }


def write_folder(folder: Path, files: Files) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_archive(path: Path, files: Files, top: str = "") -> Path:
    """Write files into a tar, compressed if its name says so."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def read(folder: Path, files: Files, *, inspect_only: bool = False) -> Bundle:
    """Open a folder of files."""
    with open_bundle(write_folder(folder / "bundle", files), inspect_only=inspect_only) as bundle:
        return bundle


# ---- where it lies ----------------------------------------------------------------------------------------------


def test_archive_and_folder_are_the_same_bundle(tmp_path: Path) -> None:
    files = files_of() | {"onnx/fp32/model.onnx": b"onnx", "onnx/int8/model.onnx": b"int8", "notes.txt": b"n"}
    noise = {"._deploy.yaml": b"\0AppleDouble", "._meta.json": b"\0"}
    sources = [
        write_archive(tmp_path / "a.tgz", files),
        write_archive(tmp_path / "b.tgz", files | noise, top="seagrass/"),
        write_archive(tmp_path / "c.tar", noise | files, top="./"),
        write_archive(tmp_path / "d.tar", dict(reversed(files.items())), top="./x/"),
        write_folder(tmp_path / "e", files | noise),
        write_folder(tmp_path / "f", {f"inner/{name}": content for name, content in files.items()}),
    ]
    digests: set[str] = set()
    for source in sources:
        with open_bundle(source) as bundle:
            digests.add(bundle.digest)
            assert (bundle.source, bundle.name) == (source, "seagrass")
            assert bundle.transforms == (Resize((32, 16)), Normalize((0.5,), (0.5,)))
            assert [model.precision for model in bundle.onnx] == [Precision.FP32, Precision.INT8]
    assert len(digests) == 1


def test_a_folder_s_own_model_comes_before_those_below_it(tmp_path: Path) -> None:
    other = {f"other/{name}": content for name, content in files_of(model="x.json").items()}
    assert read(tmp_path, files_of() | other).notes == ()


@pytest.mark.parametrize(
    "changed", ["deploy.yaml", "model.json", "model.pdiparams", "meta.json", "onnx/fp32/model.onnx"]
)
def test_the_digest_covers_every_file(changed: str, tmp_path: Path) -> None:
    files = files_of() | {"onnx/fp32/model.onnx": b"onnx"}
    before = read(tmp_path, files).digest
    assert read(tmp_path, files | {changed: files[changed] + b" "}).digest != before


def test_the_temporary_folder_goes_with_the_context(tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    good = write_archive(tmp_path / "good.tgz", files_of())
    with open_bundle(str(good), temporary_folder=place) as bundle:
        assert place in bundle.folder.parents
        assert bundle.paddle is not None
        assert bundle.paddle.program.is_file()
    assert list(place.iterdir()) == []
    bad = write_archive(tmp_path / "bad.tgz", files_of() | {"../deploy.yaml": b""})
    with pytest.raises(BundleError, match=r"bad\.tgz: member '\.\./deploy\.yaml' points outside"):
        with open_bundle(bad, temporary_folder=place):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"temporary", "good.tgz", "bad.tgz"}
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("top", ["", "a/"])
def test_one_model_an_archive(top: str, tmp_path: Path) -> None:
    files = {f"{top}{name}": content for name, content in files_of().items()}
    files |= {f"b/{name}": content for name, content in files_of().items()}
    with pytest.raises(BundleError, match=r"two\.tgz: holds several models \((\.|a), b\): pack one model"):
        with open_bundle(write_archive(tmp_path / "two.tgz", files)):
            pass


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.tgz: no such file or folder"):
        with open_bundle(tmp_path / "gone.tgz"):
            pass


def test_one_model_a_folder(tmp_path: Path) -> None:
    files = {f"{top}{name}": content for top in ("a/", "b/") for name, content in files_of().items()}
    with pytest.raises(BundleError, match=r"holds several models \(a, b\): name one of them, such as .*bundle/a"):
        read(tmp_path, files)


def test_equal_names_get_their_index() -> None:
    classes = [SegmentationClass(f"urn:{index}", name, None) for index, name in enumerate(("sand", "reef", "sand"))]
    assert distinct_names(classes, 4) == ("sand (class 0)", "reef", "sand (class 2)", "class-3")


@pytest.mark.parametrize(
    ("file", "command"),
    [("model.json", "git lfs pull"), ("model.pdiparams", "git lfs pull"), ("onnx", "git annex get")],
)
def test_a_pointer_in_place_of_a_model_file(file: str, command: str, tmp_path: Path) -> None:
    name = "onnx/fp32/model.onnx" if file == "onnx" else file
    pointer = b"/annex/objects/MD5E-s9--0.onnx\n" if file == "onnx" else b"version https://git-lfs.github.com/spec/v1\n"
    with pytest.raises(BundleError, match=f"{Path(name).name} is a .*pointer in place of the file: .*{command}"):
        read(tmp_path, files_of() | {name: pointer})


# ---- generations of deploy.yaml ---------------------------------------------------------------------------------

NOTHING = DeclaredOutput(None, None, None)


@pytest.mark.parametrize(
    ("entries", "declared"),
    [
        ({}, NOTHING),
        ({"with_softmax": False, "with_argmax": True}, DeclaredOutput(None, "argmax", None)),
        ({"with_softmax": True, "with_argmax": False}, DeclaredOutput(None, "softmax", None)),
        ({"with_softmax": False, "with_argmax": False}, NOTHING),
        ({"output_op": "none", "output_dtype": "float32"}, DeclaredOutput(None, "none", "float32")),
        ({"output_op": "softmax", "with_argmax": True}, DeclaredOutput(None, "softmax", None)),
        ({"input_shape": [-1, 3, None, -1]}, DeclaredOutput((None, 3, None, None), None, None)),
        ({"input_shape": [1, 3, 512, 1024]}, DeclaredOutput((1, 3, 512, 1024), None, None)),
    ],
)
def test_what_deploy_yaml_declares(entries: dict[str, object], declared: DeclaredOutput, tmp_path: Path) -> None:
    assert read(tmp_path, files_of(**entries)).declared == declared


@pytest.mark.parametrize("entries", [{"transforms": None}, {"transforms": []}])
def test_no_transforms(entries: dict[str, object], tmp_path: Path) -> None:
    assert read(tmp_path, files_of(**entries)).transforms == ()


def test_a_bare_deploy_block(tmp_path: Path) -> None:
    bundle = read(tmp_path, files_of() | {"deploy.yaml": b"Deploy: {}"})
    assert (bundle.transforms, bundle.declared, bundle.notes) == ((), NOTHING, ())
    assert bundle.paddle is not None
    assert (bundle.paddle.kind, bundle.paddle.program.name) == ("pir", "model.json")


@pytest.mark.parametrize("name", ["inference.yml", "inference.yaml", "deploy.yml"])
def test_paddlex_calls_it_inference(name: str, tmp_path: Path) -> None:
    block: dict[str, Any] = {
        "Global": {"model_name": "PP-LiteSeg-T"},
        "Hpi": {"backend_config": [], "supported_backends": []},
        "Deploy": {"model": "inference.pdmodel", "transforms": [RESIZE]},
    }
    files = {name: yaml.safe_dump(block).encode(), "inference.json": b"{}", "inference.pdiparams": b"w"}
    bundle = read(tmp_path, files)
    assert bundle.paddle is not None
    assert (bundle.paddle.program.name, bundle.paddle.params.name) == ("inference.json", "inference.pdiparams")
    assert bundle.notes == (
        f"{bundle.source}: {name} names inference.pdmodel, which is not there: inference.json is used",
    )


@pytest.mark.parametrize(
    ("model", "present", "used", "noted"),
    [
        ("model.pdmodel", ["model.pdmodel"], "model.pdmodel", False),
        ("./model.pdmodel", ["model.pdmodel", "model.json"], "model.pdmodel", False),
        ("model.pdmodel", ["model.json"], "model.json", True),
        ("model.json", ["model.pdmodel"], "model.pdmodel", True),
        ("model", ["model.pdmodel"], "model.pdmodel", True),
        ("seg.pdmodel", ["seg.json", "model.json"], "seg.json", True),
        ("model.pdmodel", ["inference.pdmodel"], "inference.pdmodel", True),
        (None, ["model.json"], "model.json", False),
    ],
)
def test_the_program_that_exists_is_used(
    model: str | None, present: list[str], used: str, noted: bool, tmp_path: Path
) -> None:
    files = files_of(model=model)
    del files["model.json"]
    bundle = read(tmp_path, files | dict.fromkeys(present, b"{}"))
    assert bundle.paddle is not None
    assert (bundle.paddle.program.name, bundle.paddle.params.name) == (used, "model.pdiparams")
    assert bundle.paddle.kind == ("pir" if used.endswith(".json") else "pdmodel")
    assert [used in note for note in bundle.notes] == [True] * noted


@pytest.mark.parametrize("params", [None, "", "absent.pdiparams"])
def test_the_weights_beside_the_program_are_used(params: str | None, tmp_path: Path) -> None:
    bundle = read(tmp_path, files_of(params=params))
    assert bundle.paddle is not None
    assert bundle.paddle.params.name == "model.pdiparams"
    named = f"names {params}, which is not there: model.pdiparams is used"
    assert [named in note for note in bundle.notes] == [True] * bool(params)


def test_a_bundle_of_onnx_alone(tmp_path: Path) -> None:
    names = [f"onnx/{precision}/model.onnx" for precision in ("fp32", "fp16", "int8")]
    files = {"deploy.yaml": deploy(model="model.pdmodel"), "onnx/int8/report.json": b"{}"}
    bundle = read(tmp_path, files | {name: name.encode() for name in names})
    assert bundle.paddle is None
    assert bundle.name == "bundle"
    found = [bundle.onnx_model(precision) for precision in Precision]
    assert [None if each is None else each.path.relative_to(bundle.folder).as_posix() for each in found] == names
    assert [None if each is None else each.digest for each in found] == [
        file_digest(bundle.folder / name) for name in names
    ]


def test_a_converted_model_takes_the_place_of_its_precision(tmp_path: Path) -> None:
    bundle = read(tmp_path, files_of() | {"onnx/fp32/model.onnx": b"a", "onnx/int8/model.onnx": b"b"})
    made = OnnxModel(tmp_path / "made.onnx", Precision.FP32, "0" * 64)
    changed = bundle.with_onnx(made)
    assert changed.onnx_model(Precision.FP32) == made
    assert changed.onnx_model(Precision.INT8) == bundle.onnx_model(Precision.INT8)
    assert len(changed.onnx) == 2
    assert bundle.onnx_model(Precision.FP16) is None


@pytest.mark.parametrize(
    ("original", "another"),
    [("paddle", False), ("f" * 64, True), (None, False)],
    ids=["its own", "another", "no certificate"],
)
def test_what_a_model_was_made_of(original: str | None, another: bool, tmp_path: Path) -> None:
    files = files_of() | {f"onnx/{precision}/model.onnx": precision.encode() for precision in ("fp32", "int8")}
    plain = read(tmp_path / "plain", files)
    assert plain.paddle is not None
    digest = plain.paddle.digest if original == "paddle" else original
    if digest is not None:
        for each in plain.onnx:
            certificate = {"model_digest": each.digest, "report": {"reference": {"model": digest}}}
            files[f"onnx/{each.precision}/parity.json"] = json.dumps(certificate).encode()
    bundle = read(tmp_path / "certified", files)
    assert bundle.digest == plain.digest
    assert [bundle.is_made_of_another(each) for each in bundle.onnx] == [another, another]


@pytest.mark.parametrize("certificate", [b"", b"[]", b'{"model_digest": 1}', b'{"report": {"reference": {}}}'])
def test_a_certificate_that_cannot_be_read_tells_nothing(certificate: bytes, tmp_path: Path) -> None:
    bundle = read(tmp_path, files_of() | {"onnx/fp32/model.onnx": b"a", "onnx/fp32/parity.json": certificate})
    assert [each.original for each in bundle.onnx] == [None]


@pytest.mark.parametrize(("of_int8", "another"), [("made of", False), ("itself", False), ("another", True)])
def test_without_a_program_models_are_compared_with_the_fp32_one(of_int8: str, another: bool, tmp_path: Path) -> None:
    files = {"deploy.yaml": deploy(model="model.pdmodel"), "onnx/fp32/model.onnx": b"a", "onnx/int8/model.onnx": b"b"}
    plain = read(tmp_path / "plain", files)
    first, second = plain.onnx
    originals = {"made of": "1" * 64, "itself": first.digest, "another": "2" * 64}
    for each, original in ((first, originals["made of"]), (second, originals[of_int8])):
        certificate = {"model_digest": each.digest, "report": {"reference": {"model": original}}}
        files[f"onnx/{each.precision}/parity.json"] = json.dumps(certificate).encode()
    bundle = read(tmp_path / "certified", files)
    assert [bundle.is_made_of_another(each) for each in bundle.onnx] == [False, another]


# ---- meta.json --------------------------------------------------------------------------------------------------

SLUG = "urn:ibenthos:segmentation:class:"


def test_classes_may_lack_anything(tmp_path: Path) -> None:
    bundle = read(tmp_path, files_of())
    assert bundle.classes == (
        SegmentationClass(f"{SLUG}bare", "Bare sand", (1, 2, 3)),
        SegmentationClass(f"{SLUG}sea-grass-dense", "Sea grass / dense", (4, 5, 6)),
        SegmentationClass(f"{SLUG}class-2", "海草", None),
        SegmentationClass(f"{SLUG}class-3", "class-3", None),
    )
    assert class_of_index(bundle.classes, 1) is bundle.classes[1]
    assert class_of_index(bundle.classes, 4) == SegmentationClass(f"{SLUG}class-4", "class-4", None)
    assert not bundle.multilabel


@pytest.mark.parametrize("meta", [{}, {"classes": None}, {"classes": []}, {"name": ""}])
@pytest.mark.parametrize("name", ["m.v2.tgz", "m.v2.tar"])
def test_a_poor_meta_json(meta: dict[str, object], name: str, tmp_path: Path) -> None:
    with open_bundle(write_archive(tmp_path / name, files_of() | {"meta.json": json.dumps(meta).encode()})) as bundle:
        assert (bundle.name, bundle.classes) == ("m.v2", ())


def test_meta_json_may_be_missing(tmp_path: Path) -> None:
    files = files_of()
    del files["meta.json"]
    with open_bundle(write_archive(tmp_path / "reef.tgz", files)) as bundle:
        assert (bundle.name, bundle.classes) == ("reef", ())


def test_multilabel_is_stated(tmp_path: Path) -> None:
    assert read(tmp_path, files_of() | {"meta.json": b'{"multilabel": true}'}).multilabel


# ---- refused ----------------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
YAML_CASES = [
    ("Deploy: !!python/object/apply:os.system [touch gone]", "is not valid YAML: could not determine a constructor"),
    ("Deploy: !!python/name:os.system", "is not valid YAML"),
    ("Deploy: {model: [", "is not valid YAML"),
    ("[" * 5_000, "is not valid YAML"),
    ('Deploy: !!int ""', "is not valid YAML"),
    ("Deploy: !!bool maybe", "is not valid YAML"),
    ("Deploy: !!timestamp soon", "is not valid YAML"),
    ("Deploy: 2001-99-99", "is not valid YAML"),
    ("- Deploy", "must be a mapping with a Deploy block"),
    ("", "must be a mapping with a Deploy block"),
    ("Global: {}", "Deploy must be a mapping, but it is None"),
    ("Deploy: [model.json]", "Deploy must be a mapping, but it is ['model.json']"),
    ("Deploy: {model: 3}", "model: must be a text, but it is 3"),
    ("Deploy: {model: *x}", "is not valid YAML: found undefined alias"),
    ("Deploy: {transforms: {type: Resize}}", "transforms: must be a list"),
    ("Deploy: {transforms: [Resize]}", "transforms.0: must be a mapping of names to values, but it is 'Resize'"),
    ("Deploy: {transforms: [{1: 2}]}", "transforms.0.1.[key]: must be a text"),
    ("Deploy: {input_shape: [1, 0]}", "input_shape.1: must be at least 1, but it is 0"),
    ("Deploy: {input_shape: [1, -2]}", "input_shape.1: must be at least 1, but it is -2"),
    ("Deploy: {with_argmax: perhaps}", "with_argmax: must be true or false"),
    ("Deploy: {output_op: [argmax]}", "output_op: must be a text, but it is ['argmax']"),
    ("Deploy: {model: ../model.json}", "model: '../model.json' must be the name of a file in the bundle's own folder"),
    ("Deploy: {model: /etc/passwd}", "model: '/etc/passwd' must be the name"),
    ("Deploy: {model: '..'}", "model: '..' must be the name"),
    ('Deploy: {model: "a\\\\b.json"}', "must be the name"),
    ('Deploy: {model: "model\\0.json"}', "must be the name"),
    ('Deploy: {model: "\\ud800"}', "model: '\\ud800' must be the name"),
    ("Deploy: {params: sub/model.pdiparams}", "params: 'sub/model.pdiparams' must be the name"),
    (f"Deploy: {{params: {'m' * 300}}}", "params: 'mmm"),
    (f"Deploy: {{model: {'m' * 300}}}", "is too long for the name of a file"),
    (f"{BOMB}Deploy: *a8", "unfolds to more than 262144 values: write it without YAML aliases"),
    (f"{BOMB}Deploy: {{transforms: [{{type: *a8}}]}}", "unfolds to more than 262144 values"),
    ("Deploy: &a {model: *a}", "unfolds to more than"),
    (f"Deploy: {{model: 0x{'f' * 5000}}}", "holds a number of 20000 bits"),
    (f"Deploy: {{model: !!set {{0x{'f' * 5000}}}}}", "holds a number of 20000 bits"),
    ("Deploy: {input_shape: [1, 3, 010, 010]}", "'010' is 8 in YAML 1.1: write that"),
    ("Deploy: {input_shape: [1, 3, 1:30, 5]}", "'1:30' is 90 in YAML 1.1: write that"),
    ("Deploy: {input_shape: [1, 3, 0_8, 5]}", "input_shape.2: must be a whole number, but it is '0_8'"),
    ("Deploy: {input_shape: []}", "input_shape: must have at least 4 entries"),
    ("Deploy: {input_shape: [1, 3, 1000000000, 5]}", "input_shape.2: must be at most 65536"),
    ("Deploy: {input_shape: [1, 3, 1e3, 5]}", "input_shape.2: must be a whole number"),
    ("Deploy: {output_op: no}", "output_op: must be a text, but it is False"),
    ("Deploy: {model: 2001-01-01}", "model: must be a text"),
    ("Deploy: {model: !!set {a, b}}", "model: must be a text"),
    ("Deploy: {1: 2, [a]: b}", "is not valid YAML"),
    (f"Deploy: {{output_op: {'x' * 2000}}}", "output_op: must have at most 1000 characters"),
    ("Deploy: {transforms: [" + "{type: Normalize}, " * 101 + "]}", "transforms has 101 entries, more than 100"),
    (
        "Deploy: {transforms: [{type: Normalize, mean: [no]}]}",
        "transforms[0] Normalize: mean must be a list of 1 to 512",
    ),
    (
        "Deploy: {transforms: [{type: Normalize, std: ['0.5']}]}",
        "transforms[0] Normalize: std must be a list of 1 to 512",
    ),
    ("Deploy: {transforms: [{type: Padding, target_size: [5.0, 5]}]}", "transforms[0] Padding: target_size must be"),
    ("Deploy: {transforms: [{type: ResizeByLong, long_size: -5}]}", "transforms[0] ResizeByLong: long_size must be"),
    ("Deploy: {transforms: [{type: ResizeByLong, long_size: true}]}", "transforms[0] ResizeByLong: long_size must be"),
    ("Deploy: {transforms: [{type: !!binary YQ==}]}", "transforms[0]: type must be the name of a transform"),
]


@pytest.mark.parametrize(("text", "message"), YAML_CASES, ids=range(len(YAML_CASES)))
def test_a_deploy_yaml_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        read(tmp_path, files_of() | {"deploy.yaml": text.encode()})
    assert str(caught.value).startswith(f"{tmp_path / 'bundle'}: deploy.yaml")
    assert len(str(caught.value)) < 1000
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_shared_values_are_no_bomb(tmp_path: Path) -> None:
    shared = "Deploy: {transforms: [{type: Normalize, mean: &id001 [0.4], std: *id001}]}"
    assert read(tmp_path, files_of() | {"deploy.yaml": shared.encode()}).transforms == (Normalize((0.4,), (0.4,)),)


META_CASES = [
    ('{"name": ', "is not valid JSON"),
    ("", "is not valid JSON"),
    ("[" * 100_000, "is not valid JSON"),
    ('{"name": ' + "9" * 5000 + "}", "is not valid JSON"),
    ("[]", "its content: must be a mapping of names to values"),
    ('{"name": 3}', "name: must be a text, but it is 3"),
    ('{"classes": {}}', "classes: must be a list, but it is {}"),
    ('{"classes": [{}, "sand"]}', "classes.1: must be a mapping of names to values"),
    ('{"classes": [{"name": ["sand"]}]}', "classes.0.name: must be a text"),
    ('{"classes": [{"def_color": [1, 2]}]}', "classes.0.def_color: "),
    ('{"classes": [{"def_color": [1, 2, 3, 4, 5]}]}', "classes.0.def_color: "),
    ('{"classes": [{"def_color": [1, 256, 3]}]}', "classes.0.def_color.1: must be at most 255"),
    ('{"classes": [{"def_color": "#00ff00"}]}', "classes.0.def_color: "),
    ('{"multilabel": "perhaps"}', "multilabel: must be true or false"),
    ('{"classes": [{"name": "\\ud800"}]}', "classes.0.name: must be a text of Unicode characters"),
    ('{"classes": [{"id": "a\\udfffb"}]}', "classes.0.id: must be a text of Unicode characters"),
    ('{"name": "\\udead"}', "name: must be a text of Unicode characters"),
    ('{"classes": [{"id": "' + "u" * 1001 + '"}]}', "classes.0.id: must have at most 1000 characters"),
    ('{"classes": [{"name": "' + "n" * 1001 + '"}]}', "classes.0.name: must have at most 1000 characters"),
    ('{"classes": [{"def_color": [NaN, 0, 0]}]}', "classes.0.def_color.0: "),
]


@pytest.mark.parametrize(("text", "message"), META_CASES, ids=range(len(META_CASES)))
def test_a_meta_json_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        read(tmp_path, files_of() | {"meta.json": text.encode()})
    assert str(caught.value).startswith(f"{tmp_path / 'bundle'}: meta.json")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["deploy.yaml", "meta.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}\n\xe4", "cannot be read as UTF-8 text: byte 0xe4 in line 2 (offset 3) belongs to another encoding: save"),
        (b"\xff\xfe\x00", "cannot be read as UTF-16 text"),
        (b" " * (1 << 23), "is larger than"),
    ],
)
def test_what_is_no_text(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=re.escape(f"bundle: {name} {message}")):
        read(tmp_path, files_of() | {name: content})


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (b"", "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_what_editors_make_of_a_text(mark: bytes, encoding: str, line_end: str, tmp_path: Path) -> None:
    files = files_of()
    for name in ("deploy.yaml", "meta.json"):
        files[name] = mark + files[name].decode().replace("\n", line_end).encode(encoding)
    bundle = read(tmp_path, files)
    assert (bundle.name, len(bundle.classes)) == ("seagrass", 4)
    assert bundle.classes[2].name == "海草"
    assert bundle.transforms == (Resize((32, 16)), Normalize((0.5,), (0.5,)))


def test_utf_16_without_a_mark_is_named(tmp_path: Path) -> None:
    for name in ("deploy.yaml", "meta.json"):
        with pytest.raises(BundleError, match="holds NUL bytes, as UTF-16 without a byte order mark does: save it as"):
            read(tmp_path, files_of() | {name: files_of()[name].decode().encode("utf-16-le")})


@pytest.mark.parametrize(
    ("missing", "changed", "message"),
    [
        ("deploy.yaml", {}, r"bundle: no deploy\.yaml \(or inference\.yml\) at its top"),
        ("model.json", {}, r"bundle: model missing: no Paddle program .*beside deploy\.yaml"),
        ("model.pdiparams", {}, r"deploy\.yaml: weights missing: model\.pdiparams is not beside model\.json"),
        ("meta.json", {"model.pdiparams": b""}, r"deploy\.yaml: weights model\.pdiparams are empty: fetch"),
    ],
)
def test_an_incomplete_bundle(missing: str, changed: Files, message: str, tmp_path: Path) -> None:
    files = files_of() | changed
    del files[missing]
    with pytest.raises(BundleError, match=message):
        read(tmp_path, files)


def test_random_transforms_are_refused_but_can_be_looked_at(tmp_path: Path) -> None:
    files = files_of(transforms=[RESIZE, RANDOM])
    with pytest.raises(UnsupportedTransformError, match=r"deploy\.yaml.*RandomHorizontalFlip"):
        read(tmp_path, files)
    bundle = read(tmp_path, files, inspect_only=True)
    assert bundle.transforms == ()
    assert ["RandomHorizontalFlip" in note for note in bundle.notes] == [True]
    with pytest.raises(BundleError, match="weights missing"):
        read(tmp_path / "other", {name: files[name] for name in ("deploy.yaml", "model.json")}, inspect_only=True)
