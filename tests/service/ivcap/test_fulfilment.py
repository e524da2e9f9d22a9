"""How an order is done: what is read ahead and what is not, what is told of failures, how it ends."""

import io
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine import ModelLoadError, Predictor, RuntimeUnavailableError
from engine.system.machine.cores import usable_cores
from service.ivcap.items import FetchError, Item, SourceError, StorageError
from service.ivcap.names import ArtifactName
from service.ivcap.parameters import ServiceRequest, build_service_request
from service.ivcap.platform_job import ExitStatus, Outcome, run_platform_job
from service.ivcap.publishing import SUMMARY_SCHEMA, Aspect, Product
from service.request import PredictRequest
from service.session import caches_at, open_session
from tests.published import problem_of
from tests.service.bundles import bundle_folder
from tests.service.results.test_orthomosaics import geotiff, pixels_of


@dataclass(slots=True)
class Shelf:
    """A store that keeps what it gets and refuses some of it."""

    history: list[str]
    refuses: frozenset[str] = frozenset()
    when_stored: Callable[[str], None] = lambda _: None
    order: str = "urn:ivcap:order:1"
    products: dict[str, bytes] = field(default_factory=dict[str, bytes])
    aspects: list[Aspect] = field(default_factory=list[Aspect])
    stored_aspects: list[Aspect] = field(default_factory=list[Aspect])

    def store(self, product: Product) -> str:
        self._refuse(product.name)
        self.history.append(f"store {product.name}")
        self.products[product.name] = product.content
        assert [problem for aspect in product.aspects if (problem := problem_of(aspect))] == []
        self.stored_aspects += product.aspects
        self.when_stored(product.name)
        return f"urn:ivcap:artifact:{product.name}"

    def attach(self, entity: str, aspect: Aspect) -> None:
        self._refuse(aspect["$schema"])
        assert problem_of(aspect) is None
        self.aspects.append({**aspect, "$entity": entity})

    def _refuse(self, name: str) -> None:
        if name in self.refuses:
            raise StorageError(name, "no room")

    @property
    def summary(self) -> dict[str, Any]:
        [found] = [each for each in self.aspects if each["$schema"] == SUMMARY_SCHEMA]
        return dict(found)


@dataclass(slots=True)
class Picture:
    """An item that a test can look over the shoulder."""

    path: Path
    history: list[str]
    problem: Exception | None = None

    @property
    def name(self) -> ArtifactName:
        return ArtifactName(f"urn:test:{self.path.name}", self.path.name)

    def fetch(self) -> Path:
        self.history.append(f"fetch {self.path.name}")
        if self.problem is not None:
            raise self.problem
        return self.path

    def release(self) -> None:
        self.history.append(f"release {self.path.name}")


@dataclass(slots=True)
class Pictures:
    """A source of images."""

    items: Sequence[Picture]
    history: list[str]
    one_at_a_time: bool = False
    breaks_off: bool = False
    sample: Sequence[Path] = ()
    when_taken: Callable[[str], None] = lambda _: None

    def __iter__(self) -> Iterator[Item]:
        for item in self.items:
            self.history.append(f"take {item.path.name}")
            self.when_taken(item.path.name)
            yield item
        if self.breaks_off:
            raise SourceError("the queue", "broke off")

    def acknowledge(self) -> bool:
        self.history.append("acknowledge the last")
        return sum(each.startswith("take") for each in self.history) == len(self.items)


@dataclass(slots=True)
class Scene:
    """An order on three images."""

    folder: Path
    bundle: Path
    history: list[str] = field(default_factory=list[str])
    stop: Event = field(default_factory=Event)

    def pictures(self, count: int = 3) -> list[Picture]:
        made: list[Picture] = []
        for number in range(count):
            file = io.BytesIO()
            Image.fromarray(np.full((4, 6, 3), (200, 20, 30), np.uint8)).save(file, "PNG")
            path = self.folder / f"{number}.png"
            path.write_bytes(file.getvalue())
            made.append(Picture(path, self.history))
        return made

    def request(self, **more: object) -> ServiceRequest:
        return build_service_request(model="urn:ivcap:artifact:model", images="urn:ivcap:queue:1", **more)

    @contextmanager
    def session(self, options: PredictRequest) -> Generator[Predictor]:
        self.history.append("open the model")
        with open_session(self.bundle, options, caches_at(self.folder / "cache")) as opened:
            yield opened

    def do(
        self, source: Pictures, *refuses: str, when_stored: Callable[[str], None] = lambda _: None, **more: object
    ) -> tuple[Outcome, Shelf]:
        shelf = Shelf(self.history, frozenset(refuses), when_stored)
        return run_platform_job(self.request(**more), self.session, source, shelf, stop=self.stop), shelf


@pytest.fixture
def scene(tmp_path: Path, bundle: Path) -> Scene:
    return Scene(tmp_path, bundle)


def test_images_of_a_queue_are_done_one_after_the_other(scene: Scene) -> None:
    outcome, _ = scene.do(Pictures(scene.pictures(), scene.history, one_at_a_time=True), batch_size=8)
    assert outcome.exit_status is ExitStatus.DONE
    expected = ["open the model"]
    for number in range(3):
        name = f"{number}.png"
        expected += [f"take {name}", f"fetch {name}", f"store {number}.pseudo.png", f"release {name}"]
    assert scene.history[: len(expected)] == expected


def test_images_that_are_known_are_read_ahead_and_released(scene: Scene) -> None:
    outcome, _ = scene.do(Pictures(scene.pictures(60), scene.history), batch_size=4)
    assert [each.image.label for each in outcome.published] == [f"{number}.png" for number in range(60)]
    assert scene.history.index("take 1.png") < scene.history.index("store 0.pseudo.png")
    assert scene.history.index("store 0.pseudo.png") < scene.history.index("take 59.png")
    assert {f"release {number}.png" for number in range(60)} <= set(scene.history)


def test_a_failed_image_is_listed_and_the_others_are_done(scene: Scene) -> None:
    pictures = scene.pictures()
    pictures[0].path.write_bytes(b"broken")
    pictures[1].problem = FetchError("1.png", "gone")
    outcome, shelf = scene.do(Pictures(pictures, scene.history, one_at_a_time=True))
    assert outcome.exit_status is ExitStatus.DONE
    assert shelf.summary["failures"] == [
        {"image": "urn:test:0.png", "name": "0.png", "reason": outcome.failed[0].reason},
        {"image": "urn:test:1.png", "name": "1.png", "reason": "1.png: cannot be fetched (gone)"},
    ]
    assert outcome.failed[0].reason.startswith("0.png: is not a JPEG")
    assert (
        shelf.products["cover.csv"].decode().splitlines()[3].startswith("2.png,ok,urn:ivcap:artifact:2.pseudo.png,6,4,")
    )


def test_an_order_in_which_nothing_succeeds_ends_with_1(scene: Scene) -> None:
    pictures = scene.pictures(1)
    pictures[0].path.write_bytes(b"broken")
    outcome, shelf = scene.do(Pictures(pictures, scene.history))
    assert outcome.exit_status == 1
    assert shelf.summary["status"] == "incomplete"
    assert shelf.summary["cover"] == []


def test_a_result_that_is_not_stored_ends_a_queue_and_not_a_list(scene: Scene) -> None:
    queued, _ = scene.do(Pictures(scene.pictures(), scene.history, one_at_a_time=True), "1.pseudo.png")
    assert "take 2.png" not in scene.history
    assert "acknowledge the last" not in scene.history
    listed, _ = scene.do(Pictures(scene.pictures(), scene.history), "1.pseudo.png")
    assert [len(each.published) for each in (queued, listed)] == [1, 2]
    for outcome in (queued, listed):
        assert outcome.exit_status == 1
        assert [each.image.label for each in outcome.failed] == ["1.png"]
        assert "no room" in outcome.problems[0]


@pytest.mark.parametrize(
    "product", ["cover.csv", "report.html", "urn:ivcap:schema:artifact-collection.1", SUMMARY_SCHEMA]
)
def test_a_product_that_is_not_stored_is_a_problem(scene: Scene, product: str) -> None:
    outcome, shelf = scene.do(Pictures(scene.pictures(1), scene.history), product, report=True)
    assert outcome.exit_status == 1
    assert len(outcome.published) == 1
    assert "no room" in outcome.problems[0]
    if product != SUMMARY_SCHEMA:
        assert shelf.summary["problems"] == outcome.problems


def test_the_report_shows_what_was_done_and_what_was_not(scene: Scene) -> None:
    pictures = scene.pictures(2)
    pictures[1].path.write_bytes(b"broken")
    outcome, shelf = scene.do(Pictures(pictures, scene.history), report=True)
    page = shelf.products["report.html"].decode()
    assert "0.png" in page
    assert "is not a JPEG" in page
    assert outcome.products["report"] == "urn:ivcap:artifact:report.html"


def test_no_name_from_outside_costs_the_order_anything(scene: Scene, tmp_path: Path) -> None:
    names = ["a\x85b", "\x1b[31m\u202e", "</script>"]
    scene.bundle = bundle_folder(tmp_path / "hostile", classes=[{"name": name} for name in names])
    pictures = [
        replace(picture, path=picture.path.rename(tmp_path / os.fsdecode(name)))
        for picture, name in zip(scene.pictures(2), (b"\xff\n.png", b"=1+1.png"), strict=True)
    ]
    outcome, shelf = scene.do(Pictures(pictures, scene.history), report=True)
    assert outcome.exit_status is ExitStatus.DONE, outcome.problems
    assert set(shelf.products) == {"%FF_.pseudo.png", "=1+1.pseudo.png", "cover.csv", "report.html"}
    shown = ["a%C2%85b", "%1B[31m%E2%80%AE", "</script>"]
    for aspect in [*shelf.aspects, *shelf.stored_aspects]:
        # As the platforms' libraries send it.
        json.dumps(aspect, ensure_ascii=False).encode()
        assert [each["name"] for each in aspect.get("cover", [])] in ([], shown)
    assert len(shelf.stored_aspects) == 2


@pytest.mark.parametrize("broken", ["to_csv", "report"])
def test_a_product_that_cannot_be_made_takes_no_other(
    scene: Scene, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise ValueError("no such letter")

    target = (
        "service.results.pictures.CoverTable.to_csv" if broken == "to_csv" else "service.results.report._lossless_webp"
    )
    monkeypatch.setattr(target, fail)
    outcome, shelf = scene.do(Pictures(scene.pictures(2), scene.history), report=True)
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert len(outcome.published) == 2
    (problem,) = outcome.problems
    assert problem == f"the {'cover' if broken == 'to_csv' else 'report'}: ValueError: no such letter"
    assert ("cover.csv" in shelf.products, "report.html" in shelf.products) == (broken != "to_csv", broken == "to_csv")
    assert outcome.products["collection"]
    assert shelf.summary["problems"] == outcome.problems


def test_a_source_that_breaks_off_keeps_what_is_done(scene: Scene) -> None:
    outcome, shelf = scene.do(Pictures(scene.pictures(2), scene.history, one_at_a_time=True, breaks_off=True))
    assert outcome.exit_status == 1
    assert outcome.problems == ["the queue broke off"]
    assert shelf.summary["images"]["succeeded"] == 2
    assert "cover.csv" in shelf.products


def test_no_image_is_taken_after_the_call_to_stop(scene: Scene) -> None:
    def stop(name: str) -> None:
        if name == "1.png":
            scene.stop.set()

    source = Pictures(scene.pictures(), scene.history, one_at_a_time=True, when_taken=stop)
    outcome, shelf = scene.do(source)
    assert outcome.exit_status == 1
    assert [each.image.label for each in outcome.published] == ["0.png", "1.png"]
    assert scene.history.index("store cover.csv") > scene.history.index("acknowledge the last")
    assert "asked to stop" in shelf.summary["problems"][0]


def test_a_call_to_stop_after_the_last_image_changes_nothing(scene: Scene) -> None:
    def stop(stored: str) -> None:
        if stored == "cover.csv":
            scene.stop.set()

    outcome, _ = scene.do(Pictures(scene.pictures(), scene.history, one_at_a_time=True), when_stored=stop)
    assert len(outcome.published) == 3
    assert outcome.exit_status is ExitStatus.DONE


def test_a_call_to_stop_while_the_last_image_is_done_loses_nothing(scene: Scene, tmp_path: Path) -> None:
    def stop(_: str) -> None:
        scene.stop.set()

    for one_at_a_time in (True, False):
        # A raster is cut into tiles, and nothing is read ahead of it.
        raster = Picture(geotiff(tmp_path / "reef.tif", pixels_of()), scene.history)
        scene.stop.clear()
        scene.history.clear()
        outcome, _ = scene.do(Pictures([raster], scene.history, one_at_a_time), when_stored=stop)
        assert (len(outcome.published), outcome.problems, outcome.exit_status) == (1, [], ExitStatus.DONE)
        assert ("acknowledge the last" in scene.history) == one_at_a_time
        scene.stop.clear()
        scene.history.clear()
        items = [raster, *scene.pictures(2 * usable_cores())]
        outcome, _ = scene.do(Pictures(items, scene.history, one_at_a_time), when_stored=stop)
        assert (len(outcome.published), outcome.exit_status) == (1, ExitStatus.INCOMPLETE)
        assert "asked to stop" in outcome.problems[0]


def test_an_image_that_had_not_arrived_is_left(scene: Scene) -> None:
    arrived = Event()

    class Late(Picture):
        def fetch(self) -> Path:
            # By then it has been handed out, and is waited for; until the stop, nothing is stored.
            sleep(1)
            scene.stop.set()
            assert arrived.wait(timeout=120)
            return self.path

    def arrive(stored: str) -> None:
        if stored == "cover.csv":
            arrived.set()

    first, second = scene.pictures(2)
    source = Pictures([first, Late(second.path, scene.history)], scene.history)
    outcome, shelf = scene.do(source, when_stored=arrive)
    assert [each.image.label for each in outcome.published] == ["0.png"]
    assert "had arrived" in shelf.summary["failures"][0]["reason"]
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert "asked to stop" in shelf.summary["problems"][0]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelLoadError("no weights"), 1),
        (FetchError("model", "gone"), 1),
        (RuntimeUnavailableError("no GPU"), 2),
        (ZeroDivisionError("a bug"), 1),
    ],
)
def test_a_model_that_does_not_open_is_told_before_an_image_is_taken(
    scene: Scene, error: Exception, status: int
) -> None:
    @contextmanager
    def session(_: PredictRequest) -> Generator[Predictor]:
        raise error
        yield

    shelf = Shelf(scene.history)
    source = Pictures(scene.pictures(), scene.history)
    outcome = run_platform_job(scene.request(), session, source, shelf, stop=scene.stop)
    assert outcome.exit_status == status
    assert scene.history == []
    assert str(error) in shelf.summary["problems"][0]


def test_a_share_may_hold_nothing(scene: Scene) -> None:
    outcome, shelf = scene.do(Pictures([], scene.history), shard="2/2")
    assert outcome.exit_status is ExitStatus.DONE
    assert (shelf.summary["shard"], shelf.summary["images"]["total"]) == ("2/2", 0)
    outcome, shelf = scene.do(Pictures([], scene.history))
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert shelf.summary["problems"][0].startswith("urn:ivcap:queue:1 held no image")
    broken = scene.pictures(1)
    broken[0].path.write_bytes(b"broken")
    assert scene.do(Pictures(broken, scene.history), shard="2/2")[0].exit_status is ExitStatus.INCOMPLETE


def test_shapes_cannot_be_collected_from_images_that_are_not_here(scene: Scene) -> None:
    source = Pictures(scene.pictures(), scene.history)
    outcome, shelf = scene.do(source, device="gpu", use_trt=True, enable_auto_tune=True)
    assert outcome.exit_status is ExitStatus.WRONG_REQUEST
    assert scene.history == []
    assert "enable-auto-tune" in shelf.summary["problems"][0]
