"""A configuration and its weights become a bundle: PaddleSeg's own network in dygraph is the oracle."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle and PaddleSeg ship no type information.

import json
import pickle
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from converters.exporting import paddleseg_config
from converters.exporting.evaluation_settings import classes_overlap, read_evaluation_settings, stated_evaluation
from converters.exporting.export import ExportClass
from converters.exporting.paddleseg_config import build_network, export_config, load_trained, nothing_downloaded
from converters.exporting.weights_file import read_weights
from engine import ConversionError, open_bundle, open_predictor
from engine.options import RuntimeName
from engine.runtimes.selection import RuntimeRequest
from engine.segmentation.averaging import averaged
from tests.conftest import vendor_warnings_ignored
from tests.converters.exporting.trainings import (
    HUMAN_SEG_LITE,
    TRANSFORMS,
    configuration,
    human_seg_lite,
    logits_of,
    output_of,
    picture,
    save_weights,
    tensor_of_paddleseg,
    trained_network,
    transforms_of_paddleseg,
    write_configuration,
)

ADDRESS = "https://weights.invalid/backbone.tar.gz"
CLASSES = (ExportClass("Other", (0, 128, 0)), ExportClass("Strappy large", (128, 0, 0)), ExportClass("Sand"))


@pytest.fixture(scope="module")
def network() -> Any:
    return human_seg_lite()


@pytest.fixture(scope="module")
def weights(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(network, tmp_path_factory.mktemp("weights") / "model.pdparams")


@pytest.mark.long
def test_the_bundle_gives_what_the_network_gives(network: Any, weights: Path, tmp_path: Path) -> None:
    config = write_configuration(tmp_path / "quadrats.yml", configuration())
    out = tmp_path / "bundles" / "quadrats.tgz"
    exported = export_config(config, weights, out, classes=CLASSES, output_op="none")
    path, image = picture(tmp_path)
    tensor = tensor_of_paddleseg(path)
    expected = logits_of(network, tensor)
    with open_bundle(out) as bundle:
        np.testing.assert_allclose(output_of(bundle, tensor), expected, atol=1e-4 * float(np.ptp(expected)))
        assert bundle.name == "quadrats"
        assert [each.name for each in bundle.classes] == ["Other", "Strappy large", "Sand"]
        assert image.width == 200
    with tarfile.open(out) as archive:
        members = {each.name: archive.extractfile(each).read() for each in archive}  # pyright: ignore[reportOptionalMemberAccess]
    assert yaml.safe_load(members["deploy.yaml"]) == {
        "Deploy": {
            "model": "model.json",
            "params": "model.pdiparams",
            "transforms": [dict(each) for each in TRANSFORMS],
            "input_shape": [None, 3, None, None],
            "output_op": "none",
            "output_dtype": "float32",
        }
    }
    meta = json.loads(members["meta.json"])
    assert meta["model"] == dict(HUMAN_SEG_LITE)
    assert exported.adapters == ()
    assert json.loads(exported.side_file.read_text()) == {**meta, "artifact": "@@ARTIFACT@@"}
    assert sorted(each.name for each in out.parent.iterdir()) == ["quadrats-meta.json", "quadrats.tgz"]


@pytest.mark.long
def test_a_network_with_backbone_and_pretrained_weights_needs_no_download(tmp_path: Path) -> None:
    with vendor_warnings_ignored():
        from paddleseg.models import PPLiteSeg
        from paddleseg.models.backbones import STDC1

    network = trained_network(lambda: PPLiteSeg(num_classes=2, backbone=STDC1()))
    weights = save_weights(network, tmp_path / "model.pdparams")
    model = {"type": "PPLiteSeg", "num_classes": 2, "backbone": {"type": "STDC1", "pretrained": ADDRESS}}
    config = write_configuration(tmp_path / "lite.yml", configuration(model, [{"type": "Normalize"}]))
    settings: dict[str, Any] = {"name": "PP-LiteSeg", "output_op": "argmax", "input_shape": (1, 3, 96, 128)}
    export_config(config, weights, tmp_path / "lite", **settings)
    tensor = tensor_of_paddleseg(picture(tmp_path)[0])
    expected = logits_of(network, tensor).argmax(axis=1)
    assert len(np.unique(expected)) == 2
    with open_bundle(tmp_path / "lite") as bundle:
        mask = output_of(bundle, tensor)
        assert (mask.dtype, mask.shape) == (np.int32, (1, 96, 128))
        assert (mask != expected).mean() < 1e-3
        assert bundle.declared.input_shape == (1, 3, 96, 128)
        assert (bundle.name, [each.name for each in bundle.classes]) == ("PP-LiteSeg", ["class-0", "class-1"])
    assert json.loads((tmp_path / "lite" / "meta.json").read_text())["model"] == model


def test_pretrained_weights_of_this_machine_are_not_published(weights: Path, tmp_path: Path) -> None:
    model = {**HUMAN_SEG_LITE, "pretrained": "/home/someone/weights.pdparams"}
    trained = load_trained(write_configuration(tmp_path / "c.yml", configuration(model)), weights)
    assert trained.model_record == dict(HUMAN_SEG_LITE)


@pytest.mark.parametrize("fetch", ["load_pretrained_model", "download_pretrained_model"])
def test_a_download_is_an_error_that_names_the_address(fetch: str) -> None:
    with nothing_downloaded(), pytest.raises(ConversionError, match=ADDRESS):
        from paddleseg import utils

        arguments = [ADDRESS] if fetch.startswith("download") else [None, ADDRESS]
        getattr(utils, fetch)(*arguments)


def test_a_download_by_paddle_itself_is_an_error_that_names_the_address() -> None:
    with nothing_downloaded(), pytest.raises(ConversionError, match="resnet18"):
        from paddle.vision.models import resnet18

        resnet18(pretrained=True)


def test_one_class_is_refused_before_the_network_is_built(weights: Path, tmp_path: Path) -> None:
    model = {"type": "PPHumanSegLite", "num_classes": 1, "no_such_argument": 1}
    config = write_configuration(tmp_path / "c.yml", configuration(model))
    with pytest.raises(ConversionError, match="num_classes is 1"):
        load_trained(config, weights)


def test_settings_of_the_training_may_be_absent(weights: Path, tmp_path: Path) -> None:
    whole = configuration()
    config = write_configuration(tmp_path / "c.yml", {key: whole[key] for key in ("model", "val_dataset")})
    assert load_trained(config, weights).class_count == 3


@pytest.mark.parametrize("name", ["VisionTransformer", "CAE"])
def test_backbones_that_always_fetch_weights_are_built_without(name: str) -> None:
    small = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
    with nothing_downloaded() as not_loaded:
        from paddleseg.cvlibs import manager

        assert manager.BACKBONES[name](**small, pretrained=None).state_dict()
    assert not_loaded == [name]


@pytest.mark.long
def test_weights_that_were_not_loaded_are_named(tmp_path: Path) -> None:
    backbone = {"type": "VisionTransformer", "img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2}
    config = write_configuration(
        tmp_path / "c.yml", configuration({"type": "LinearSegmenter", "num_classes": 3, "backbone": backbone})
    )
    built = build_network(config, memory_bytes=8 << 30)
    assert [each.name for each in built.adapters] == ["pretrained-weights"]
    weights = save_weights(built.network, tmp_path / "model.pdparams")
    exported = export_config(config, weights, tmp_path / "bundle", output_op="none")
    assert [each.name for each in exported.adapters] == ["pretrained-weights"]
    record = json.loads((tmp_path / "bundle" / "meta.json").read_text())["model"]["adapters"]
    assert [each["name"] for each in record] == ["pretrained-weights"]


def test_transforms_for_labels_are_left_out(weights: Path, tmp_path: Path) -> None:
    for_labels = ({"type": "AddMultiLabelAuxiliaryCategory"}, {"type": "AddEdgeLabel"})
    listed = [*for_labels, {"type": "Normalize"}, {"type": "GenerateInstanceTargets", "num_classes": 3}]
    config = write_configuration(tmp_path / "c.yml", configuration(transforms=listed))
    assert load_trained(config, weights).transforms == ({"type": "Normalize"},)


def test_a_random_transform_is_refused_unless_an_export_block_says_better(weights: Path, tmp_path: Path) -> None:
    content = configuration(transforms=[{"type": "RandomDistort"}, {"type": "Normalize"}])
    config = write_configuration(tmp_path / "c.yml", content)
    with pytest.raises(ConversionError, match=r"c\.yml: val_dataset: transforms\[0\] RandomDistort.*export block"):
        load_trained(config, weights)
    content["export"] = {"transforms": [{"type": "LimitLong", "max_long": 512}]}
    assert load_trained(write_configuration(config, content), weights).transforms == (
        {"type": "LimitLong", "max_long": 512},
    )


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        # As in PaddleSeg's configurations of PortraitNet.
        (
            {"val_dataset": {"common_transforms": [{"type": "Normalize"}], "transforms1": None}},
            r"val_dataset names no list of transforms \(it has common_transforms\): add an export block",
        ),
        ({"val_dataset": {"transforms": None}}, "val_dataset names no list of transforms: add an export block"),
        ({"export": {"transforms": None}}, "export names no list of transforms: add"),
        ({"export": {"transforms": "Normalize"}}, r"export names no list of transforms \(it has transforms\): add"),
    ],
)
def test_without_a_list_of_transforms_nothing_is_exported(
    blocks: dict[str, Any], message: str, weights: Path, tmp_path: Path
) -> None:
    content = configuration(transforms=None)
    for name, block in blocks.items():
        content[name] = {**content.get(name, {}), **block}
    config = write_configuration(tmp_path / "c.yml", content)
    with pytest.raises(ConversionError, match=rf"^{config}: {message}"):
        load_trained(config, weights)
    content["export"] = {"transforms": [{"type": "Normalize"}]}
    assert load_trained(write_configuration(config, content), weights).transforms == ({"type": "Normalize"},)


def test_an_empty_list_of_transforms_is_one_and_no_data_is_an_error(weights: Path, tmp_path: Path) -> None:
    content = configuration(transforms=[])
    assert load_trained(write_configuration(tmp_path / "c.yml", content), weights).transforms == ()
    del content["val_dataset"]
    with pytest.raises(ConversionError, match="no val_dataset"):
        load_trained(write_configuration(tmp_path / "c.yml", content), weights)


@pytest.mark.parametrize(
    ("data_set", "listing", "listed", "files"),
    [
        ("EG1800", "eg1800_test.txt", "a.png", ("Images/a.png", "Labels/a.png")),
        pytest.param(
            "SUPERVISELY",
            "supervisely_face_test_easy.txt",
            "root/x/img/a.png",
            ("x/img/a.png", "x/ann/a.png"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_network_that_was_trained_on_blue_first_gets_blue_first(
    data_set: str, listing: str, listed: str, files: Sequence[str], tmp_path: Path
) -> None:
    with vendor_warnings_ignored():
        from paddleseg import datasets
        from paddleseg.models import PPHumanSegLite
    network = trained_network(lambda: PPHumanSegLite(num_classes=2))
    weights = save_weights(network, tmp_path / "model.pdparams")
    path, pixels = picture(tmp_path)
    for copy in (tmp_path / each for each in files):
        copy.parent.mkdir(parents=True)
        shutil.copy(path, copy)
    (tmp_path / listing).write_text(listed)
    transforms = TRANSFORMS[1:]  # these data sets resize whole grey levels, others fractions of them
    data = getattr(datasets, data_set)(
        transforms_of_paddleseg(transforms), None, None, dataset_root=str(tmp_path), mode="val"
    )
    expected = logits_of(network, data[0]["img"][np.newaxis])
    content = configuration({**HUMAN_SEG_LITE, "num_classes": 2}, transforms)
    content["train_dataset"]["type"] = content["val_dataset"]["type"] = data_set
    exported = export_config(write_configuration(tmp_path / "c.yml", content), weights, tmp_path / "bundle")
    assert [each.name for each in exported.adapters] == ["reversed-bands"]
    with open_bundle(tmp_path / "bundle") as bundle, open_predictor(bundle) as predictor:
        (raw,) = predictor.run([predictor.prepare(pixels)])
    np.testing.assert_allclose(raw.output, expected[0], atol=1e-4 * float(np.ptp(expected)))


@pytest.mark.parametrize(("classes", "refused"), [(29, False), (30, True)])
def test_a_network_that_would_return_class_indices_is_refused(classes: int, refused: bool, tmp_path: Path) -> None:
    backbone = {"type": "MobileSeg_Tiny", "out_feat_chs": [32, 64, 128]}
    model = {"type": "PPMobileSeg", "num_classes": classes, "upsample": "vim", "backbone": backbone}
    config = write_configuration(tmp_path / "c.yml", configuration(model))
    if refused:
        with pytest.raises(ConversionError, match=rf"^{config}: upsample is vim, .* write intepolate"):
            build_network(config, memory_bytes=4 << 30)
    else:
        assert build_network(config, memory_bytes=4 << 30).class_count == classes


def test_a_network_of_more_classes_than_the_configuration_states_is_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As PaddleSeg's KNet, whose heads have a number of classes of their own: it trains and predicts with the latter.
    config = write_configuration(tmp_path / "c.yml", configuration())
    trained = load_trained(config, weights)

    def fewer_classes(*_: Path) -> Any:
        return replace(trained, class_count=2)

    monkeypatch.setattr(paddleseg_config, "load_trained", fewer_classes)
    with pytest.raises(ConversionError, match=rf"^{config}: num_classes is 2, .* returns scores of 3 classes"):
        export_config(config, weights, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_base_configuration_is_followed(weights: Path, tmp_path: Path) -> None:
    content = configuration()
    model = content.pop("model")
    write_configuration(tmp_path / "base.yml", content)
    config = write_configuration(tmp_path / "c.yml", {"_base_": "base.yml", "model": model})
    assert load_trained(config, weights).class_count == 3


def test_eight_files_may_be_built_on_however_they_are_named(weights: Path, tmp_path: Path) -> None:
    content = configuration()
    for index in range(8):
        base = {} if index == 7 else {"_base_": f"{index + 1}.yml"}
        write_configuration(tmp_path / f"{index}.yml", {**base, "iters": index})
    write_configuration(tmp_path / "c.yml", {"_base_": "0.yml", **content})
    assert load_trained(tmp_path / "c.yml", weights).class_count == 3
    # Two that each name a file four times: ten readings, and none of them is deep.
    write_configuration(tmp_path / "2.yml", {"iters": 2})
    write_configuration(tmp_path / "1.yml", {"_base_": ["2.yml"] * 4})
    write_configuration(tmp_path / "0.yml", {"_base_": ["1.yml"] * 2})
    with pytest.raises(ConversionError, match="one file more than the 8"):
        load_trained(tmp_path / "c.yml", weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "PPHumanSegLite", "num_classes": 1}}, "at least two classes"),
        ({"model": {"type": "NoSuchNetwork", "num_classes": 3}}, "NoSuchNetwork"),
        ({"model": {**HUMAN_SEG_LITE, "no_such_argument": 1}}, "no_such_argument"),
    ],
)
def test_a_configuration_that_makes_no_network_is_named(
    change: dict[str, Any], message: str, weights: Path, tmp_path: Path
) -> None:
    content = {**configuration(), **change}
    for data in ("train_dataset", "val_dataset"):
        content[data]["num_classes"] = content["model"]["num_classes"]
    with pytest.raises(ConversionError, match=message) as caught:
        load_trained(write_configuration(tmp_path / "c.yml", content), weights)
    assert str(caught.value).startswith(str(tmp_path / "c.yml"))


RUNS = "(__import__('pathlib').Path('was-here').touch(), nn.LayerNorm)[1]"
CONFIDENTIAL = "root:x:0:0"
ALIASES = "a: &a [x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n" for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)
"""4¹¹ values."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"type": "FCN", "backbone": {"type": "VisionTransformer", "norm_layer": RUNS}},
            "norm_layer: .*not a plain name",
        ),
        ({"type": "PPLiteSeg", "arm_type": "UAFM if __import__('os') else 0"}, "arm_type: .*not a plain name"),
        (
            {"type": "FCN", "backbone": {"type": "Dataset", "dataset_root": "."}},
            "'Dataset' is not a network or backbone",
        ),
        ({"type": "os.system", "command": "x"}, "'os.system' is not a network or backbone"),
        ({"type": "DeepLabV3P", "data_format": "NHWC"}, "model.data_format is NHWC, .* write NCHW, the weights are"),
        ({"type": "FCN", "backbone": {"type": "HRNet_W18"}, "num_classes": 10**9}, "num_classes: 1000000000 is larger"),
    ],
)
def test_what_paddleseg_would_run_or_read_is_refused(
    model: dict[str, Any], message: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_configuration(tmp_path / "c.yml", {**configuration(), "model": {"num_classes": 3, **model}})
    with pytest.raises(ConversionError, match=rf"^{config}: .*{message}"):
        load_trained(config, weights)
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: !!python/object/apply:os.system ['touch was-here']", "could not determine a constructor"),
        ("model: {type: FCN, act_layer: !!python/name:os.system }", "could not determine a constructor"),
        ("_base_: secret\nmodel: {type: FCN}", "_base_ must name .yml files"),
        ("_base_: /dev/zero\nmodel: {type: FCN}", "_base_ must name .yml files"),
        ("_base_: c.yml\nmodel: {type: FCN}", r"_base_ 'c\.yml' is one file more than the 8"),
        ("_base_: secret.yml\nmodel: {type: FCN}", "secret.yml: is not "),
        (ALIASES, "unfolds to more"),
        ("model: " + "[" * 50_000, "is not YAML"),
        ("[1, 2]", "no settings with names"),
    ],
    ids=range(9),
)
def test_a_configuration_is_plain_values_of_files_that_are_configurations(
    text: str, message: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("secret", "secret.yml"):
        (tmp_path / name).write_text(f"{CONFIDENTIAL}: root: /root\n")
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(ConversionError, match=message) as caught:
        load_trained(tmp_path / "c.yml", weights)
    assert CONFIDENTIAL not in str(caught.value)
    assert not (tmp_path / "was-here").exists()


def test_no_configuration_is_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"absent\.yml: no such configuration"):
        load_trained(tmp_path / "absent.yml", weights)


def test_weights_must_have_every_parameter_and_no_other(weights: Path, tmp_path: Path) -> None:
    config = write_configuration(tmp_path / "c.yml", configuration())
    arrays = read_weights(weights)
    first, second, third, *_ = sorted(arrays)
    odd = {key: value for key, value in arrays.items() if key != first}
    odd[second] = np.zeros((1, 2), np.float32)
    odd[third] = arrays[third].astype(np.float16)
    path = tmp_path / "odd.pdparams"
    path.write_bytes(pickle.dumps(odd))
    with pytest.raises(ConversionError, match=rf"3 of {len(arrays)} parameters do not fit") as caught:
        export_config(config, path, tmp_path / "out" / "bundle.tgz")
    for detail in (f"{first} is missing", f"{second} is [1, 2]", f"{third} is float16"):
        assert detail in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))
    path.write_bytes(pickle.dumps({**arrays, "head.weight": np.zeros(3, np.float32)}))
    with pytest.raises(ConversionError, match=r"1 parameters that the network .* \(head\.weight\)"):
        load_trained(config, path)


def test_all_classes_must_be_named(weights: Path, tmp_path: Path) -> None:
    config = write_configuration(tmp_path / "c.yml", configuration())
    with pytest.raises(ConversionError, match=r"3 classes, but 2 are named \(Other, Strappy large\)"):
        export_config(config, weights, tmp_path / "bundle.tgz", classes=CLASSES[:2])
    assert not (tmp_path / "bundle.tgz").exists()


UWMGI = {"types": [{"type": "MixedLoss", "losses": [{"type": "BCELoss"}, {"type": "LovaszHingeLoss"}]}], "coef": [1]}
"""As in PaddleSeg's configurations of networks whose classes overlap (``_base_/uwmgi.yml``)."""


@pytest.mark.parametrize(
    ("added", "stated"),
    [
        ({"test_config": {"use_multilabel": True}}, None),
        ({"loss": UWMGI}, True),
        ({"loss": UWMGI, "test_config": {"use_multilabel": True}}, True),
        ({"loss": UWMGI, "test_config": {"use_multilabel": True}}, None),
    ],
)
def test_classes_overlap_where_it_is_stated(added: dict[str, Any], stated: bool | None) -> None:
    assert classes_overlap(read_evaluation_settings({**configuration(), **added}, "c.yml"), stated, "c.yml")


def test_overlapping_classes_stay_overlapping(network: Any, weights: Path, tmp_path: Path) -> None:
    content = {**configuration(), "loss": UWMGI, "test_config": {"use_multilabel": True}}
    export_config(write_configuration(tmp_path / "c.yml", content), weights, tmp_path / "b", classes=CLASSES)
    path, image = picture(tmp_path)
    with open_bundle(tmp_path / "b") as bundle, open_predictor(bundle, RuntimeRequest(RuntimeName.PADDLE)) as predictor:
        mask = predictor.predict(image).mask
    # The development branch's ``core/infer.py``: ``sigmoid(logit) > 0.5`` after the enlargement to the picture's size.
    logits = logits_of(network, tensor_of_paddleseg(path))[0]
    enlarged = np.stack([cv2.resize(each, (200, 150), interpolation=cv2.INTER_LINEAR) for each in logits])
    assert (mask.shape, mask.dtype) == ((3, 150, 200), np.bool_)
    assert (mask != (1 / (1 + np.exp(-enlarged)) > 0.5)).mean() < 1e-3
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize(
    ("added", "stated", "message"),
    [
        ({"test_config": {"use_multilabel": True}}, False, "use_multilabel: True .*cv-config says multilabel: False"),
        ({"test_config": {"use_multilabel": False}}, True, "use_multilabel: False .*cv-config says multilabel: True"),
        ({"loss": UWMGI}, None, r"the loss \(BCELoss, LovaszHingeLoss\).*add multilabel, .* to the cv-config"),
        ({"loss": {"types": [{"type": "BCELoss"}], "coef": [1]}}, None, r"the loss \(BCELoss\) judges"),
        ({"test_config": {"use_multilabel": "yes"}}, None, "test_config: use_multilabel: .*'yes'"),
        ({"test_config": ["use_multilabel"]}, None, "test_config: "),
    ],
)
def test_whether_classes_overlap_must_be_clear(
    added: dict[str, Any], stated: bool | None, message: str, weights: Path, tmp_path: Path
) -> None:
    config = write_configuration(tmp_path / "c.yml", {**configuration(), **added})
    with pytest.raises(ConversionError, match=message) as caught:
        export_config(config, weights, tmp_path / "b", classes=CLASSES, multilabel=stated)
    assert str(caught.value).startswith(str(config))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "loss",
    [
        UWMGI
        | {"types": [{"type": "MixedLoss", "losses": [{"type": "CrossEntropyLoss"}, {"type": "LovaszHingeLoss"}]}]},
        UWMGI | {"types": [{"type": "OhemCrossEntropyLoss"}, {"type": "BCELoss"}]},
        {"types": "BCELoss"},
        None,
    ],
)
def test_the_loss_of_other_outputs_says_nothing_of_classes(loss: object, tmp_path: Path) -> None:
    config = write_configuration(tmp_path / "c.yml", {**configuration(), "loss": loss})
    settings = read_evaluation_settings(yaml.safe_load(config.read_text()), "c.yml")
    assert not classes_overlap(settings, None, "c.yml")


SLIDE = {"is_slide": True, "crop_size": [96, 64], "stride": [48, 40]}
"""Width and height; not square, so that exchanging them shows."""


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (SLIDE, {"crop_size": [96, 64], "stride": [48, 40]}),
        ({"aug_eval": True, "scales": 0.5}, {"scales": [0.5]}),
        (
            {**SLIDE, "aug_eval": True, "scales": [0.75, 1], "flip_horizontal": True},
            {"crop_size": [96, 64], "stride": [48, 40], "scales": [0.75, 1.0], "flip_horizontal": True},
        ),
        # None of these changes a mask: without its switch PaddleSeg ignores a window or a scale.
        ({**SLIDE, "is_slide": False, "scales": 0.5, "flip_vertical": True}, {}),
        ({"aug_eval": True, "scales": 1.0}, {}),
        ({"auc_roc": True}, {}),
        (None, {}),
    ],
)
def test_how_paddleseg_evaluates(stated: object, expected: dict[str, Any]) -> None:
    assert read_evaluation_settings({"test_config": stated}, "c.yml").averaging.record() == expected


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"is_slide": True}, "crop_size: is_slide needs crop_size and stride"),
        ({**SLIDE, "stride": None}, "crop_size: a sliding window needs"),
        ({**SLIDE, "stride": [97, 64]}, "leaves gaps"),
        ({**SLIDE, "crop_size": 96}, "crop_size: "),
        ({"aug_eval": True, "scales": "0.5"}, "scales"),
        ({"aug_eval": True, "scales": [0]}, "scales: .*factors above 0"),
    ],
)
def test_an_evaluation_that_paddleseg_could_not_make_is_named(stated: object, message: str) -> None:
    with pytest.raises(ConversionError, match=rf"^c\.yml: test_config: .*{message}"):
        read_evaluation_settings({"test_config": stated}, "c.yml")


def test_the_stated_options_do_what_paddleseg_does(network: Any, weights: Path, tmp_path: Path) -> None:
    config = write_configuration(tmp_path / "c.yml", {**configuration(), "test_config": SLIDE})
    exported = export_config(config, weights, tmp_path / "b", classes=CLASSES)
    assert exported.evaluation == {"crop_size": [96, 64], "stride": [48, 40]}
    path, image = picture(tmp_path)
    with vendor_warnings_ignored():
        import paddle
        from paddleseg.core import infer
    tensor = paddle.to_tensor(tensor_of_paddleseg(path))
    window = {key: value for key, value in SLIDE.items() if key != "is_slide"}
    with paddle.no_grad():
        mask, _ = infer.inference(network, tensor, [("resize", (150, 200))], is_slide=True, **window)
        whole, _ = infer.inference(network, tensor, [("resize", (150, 200))])
    expected = mask.numpy().squeeze()
    with open_bundle(tmp_path / "b") as bundle, open_predictor(bundle, RuntimeRequest(RuntimeName.PADDLE)) as predictor:
        averaging = stated_evaluation(json.loads((bundle.folder / "meta.json").read_text()), "b")
        assert (averaged(predictor, averaging).predict(image).mask != expected).mean() < 1e-3
        # What `predict` does by itself stays what it was.
        assert (predictor.predict(image).mask != whole.numpy().squeeze()).mean() < 1e-3
    assert (whole.numpy().squeeze() != expected).mean() > 0.01


class Runs:
    """Unpickled by running a function, as a malicious file would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-here"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"weight": Runs()}), "wants to run pathlib"),
        (pickle.dumps([1, 2]), "is not an array"),
        (
            pickle.dumps({"weight": np.zeros(2), "LR_Scheduler": {"last_epoch": 1}}),
            "LR_Scheduler is not an array.*pdopt",
        ),
        (pickle.dumps({}), "nothing in it"),
        (pickle.dumps({"weight": np.zeros(2000)})[:-1000], "damaged or of another format"),
        (b"PK\x03\x04 an archive", "damaged or of another format"),
    ],
)
def test_a_file_that_is_no_weights_is_refused_and_runs_nothing(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pdparams").write_bytes(content)
    with pytest.raises(ConversionError, match=message) as caught:
        read_weights(tmp_path / "w.pdparams")
    assert "w.pdparams" in str(caught.value)
    assert not (tmp_path / "was-here").exists()


def test_a_folder_of_weights_tells_which_file_to_name(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"is a folder; name the weights in it"):
        read_weights(tmp_path)
    with pytest.raises(ConversionError, match=r"absent.*cannot be read"):
        read_weights(tmp_path / "absent.pdparams")


def test_parameters_that_were_saved_in_slices_are_joined(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    content = {
        "weight@@.0": whole.reshape(-1)[:7],
        "weight@@.1": whole.reshape(-1)[7:],
        "bias": np.ones(2, np.float32),
        "UnpackBigParamInfor@@": {"weight": {"OriginShape": (3, 4), "slices": ["weight@@.0", "weight@@.1"]}},
        "StructuredToParameterName@@": {"weight": "linear_0.w_0"},
    }
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(content, protocol=2))
    arrays = read_weights(tmp_path / "w.pdparams")
    assert sorted(arrays) == ["bias", "weight"]
    np.testing.assert_array_equal(arrays["weight"], whole)


def test_weights_read_as_paddle_reads_them(weights: Path) -> None:
    import paddle

    expected = paddle.load(str(weights))
    arrays = read_weights(weights)
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(arrays[name], expected[name].numpy()) for name in arrays)


@pytest.mark.long
def test_the_bands_are_those_of_the_configuration(tmp_path: Path) -> None:
    model = {"type": "BiSeNetV2", "num_classes": 2, "in_channels": 1}
    content = configuration(model, [{"type": "Normalize", "mean": [0.5], "std": [0.5]}])
    content["val_dataset"]["img_channels"] = 1
    config = write_configuration(tmp_path / "grey.yml", content)
    built = build_network(config, memory_bytes=8 << 30)
    weights = save_weights(built.network, tmp_path / "grey.pdparams")
    export_config(config, weights, tmp_path / "grey")
    with open_bundle(tmp_path / "grey") as bundle:
        assert bundle.declared.input_shape == (None, 1, None, None)
