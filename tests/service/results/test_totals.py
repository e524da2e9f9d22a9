"""Covers over many images: two rules, classes that are left out, areas, and images of which nothing counts."""

from typing import Any

import pytest

from service.results.totals import TotalCover, total_of, totals


def covers(*shares: float, **more: list[float | None]) -> list[dict[str, Any]]:
    """Records of classes c0, c1, …; `excluded=[None, 0.5]` says it of the second one."""
    records = [
        {"id": f"urn:{index}", "name": f"c{index}", "color": [0, 0, index], "cover": share}
        for index, share in enumerate(shares)
    ]
    for name, values in more.items():
        for record, value in zip(records, values, strict=False):
            if value is not None:
                record[name] = value
    return records


def record(width: int, height: int, cover: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"image": "q", "status": "ok", "mask": {"width": width, "height": height}, "cover": cover, **more}


def test_every_image_counts_once_and_every_pixel_counts_once() -> None:
    total = TotalCover()
    total.add(300, covers(0.25, 0.75))
    # This image has a class more.
    total.add(100, covers(0.5, 0.3, 0.2))
    told = [(each.name, each.mean_of_images, each.cover, each.lowest, each.highest) for each in total.classes()]
    assert told == [
        ("c0", 0.375, pytest.approx((0.25 * 300 + 0.5 * 100) / 400), 0.25, 0.5),
        ("c1", pytest.approx(0.525), pytest.approx((0.75 * 300 + 0.3 * 100) / 400), 0.3, 0.75),
        ("c2", 0.1, pytest.approx(0.2 * 100 / 400), 0.0, 0.2),
    ]
    assert TotalCover().records() == []


def test_a_raster_counts_by_the_pixels_that_hold_data() -> None:
    raster = record(100, 100, covers(1, 0), raster={"valid_pixels": 1000})
    photograph = record(30, 100, covers(0, 1))
    assert [each.cover for each in total_of([raster, photograph]).classes()] == [0.25, 0.75]


def test_a_class_that_is_left_out_takes_no_part_in_any_denominator() -> None:
    total = TotalCover()
    # by hand: 100 pixels, of which 20 are left out; 80 count, half of them c0
    total.add(100, covers(0.5, 0, 0.5, excluded=[None, 0.2]))
    # 100 pixels, of which 60 are left out; 40 count, all of them c0
    total.add(100, covers(1, 0, 0, excluded=[None, 0.6]))
    first, left_out, last = total.records()
    assert first["cover"] == pytest.approx((40 + 40) / 120, abs=1e-6)
    assert last["cover"] == pytest.approx(40 / 120, abs=1e-6)
    assert (left_out["cover"], left_out["mean_of_images"], left_out["excluded"]) == (0, 0, 0.4)
    assert "excluded" not in first
    assert [each.excluded for each in total.classes()] == [None, pytest.approx(0.4), None]


def test_an_image_of_which_nothing_counts_has_no_cover() -> None:
    empty = record(10, 10, covers(0, 0), raster={"valid_pixels": 0})
    all_left_out = record(10, 10, covers(0, 0, excluded=[1]))
    half = record(10, 10, covers(0, 1, excluded=[0.5]))
    for others in ([empty], [all_left_out]):
        second = total_of([*others, half]).classes()[1]
        assert (second.cover, second.mean_of_images, second.lowest, second.highest) == (1, 1, 1, 1)
    nothing = total_of([empty]).classes()[1]
    assert (nothing.cover, nothing.mean_of_images, nothing.lowest, nothing.highest) == (0, 0, 0, 0)


@pytest.mark.parametrize("left_out", [[0.7, 0.2, 0.1], [0.333333, 0.333333, 0.333333]])
def test_rounded_shares_of_classes_that_are_left_out_are_no_rest_that_counts(left_out: list[float]) -> None:
    """Their sum, in floating point or as rounded, is not 1; the mean is that of the other image alone."""
    assert sum(left_out) < 1
    nothing = record(10, 10, covers(0, 0, 0, 0, excluded=[None, *left_out]))
    half = record(10, 10, covers(1, 0, 0, 0, excluded=[None, 0.5, 0, 0]))
    first = total_of([nothing, half]).classes()[0]
    assert (first.mean_of_images, first.lowest, first.highest) == (1, 1, 1)


def test_areas_are_added_up_where_every_image_tells_them() -> None:
    first = record(10, 10, covers(0.5, 0.5, area_m2=[12.5, 7.25]))
    second = record(10, 10, covers(1, 0, area_m2=[2, 0]))
    assert [each.get("area_m2") for each in total_of([first, second]).records()] == [14.5, 7.25]
    small = record(10, 10, covers(0.5, 0.5, area_m2=[0.000012, 0.00123456]))
    assert [each.get("area_m2") for each in total_of([small, small]).records()] == [0.000024, 0.00246912]
    photograph = record(10, 10, covers(1, 0))
    assert [each.get("area_m2") for each in total_of([first, photograph]).records()] == [None, None]


def test_a_summary_counts_failures_and_what_is_missing() -> None:
    error = {"type": "ImageError", "message": "is empty"}
    failed: dict[str, Any] = {"image": "f", "status": "failed", "error": error, "cover": []}
    summary = totals([record(1, 1, covers(1)), failed], 5)
    assert summary["images"] == {"total": 5, "succeeded": 1, "failed": 1, "missing": 3}
    assert summary["failures"] == [{"image": "f", "reason": "is empty"}]
    assert [each["cover"] for each in summary["cover"]] == [1]
