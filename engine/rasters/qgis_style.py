"""How QGIS is to paint polygons of classes: a style file beside them, which it loads by its name."""

from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

from engine.rasters.geotiff import ClassLabel
from engine.system.text import legible

_OPACITY: Final = 160
"""Of 255, so that what lies under the polygons shows."""


def qgis_style(labels: Sequence[ClassLabel]) -> bytes:
    """Write a style by which polygons have the colours of their class, in index order.

    It is QML: a symbol for each value of the field `class`.
    """
    root = ElementTree.Element("qgis", version="3.28.0", styleCategories="Symbology")
    renderer = ElementTree.SubElement(root, "renderer-v2", type="categorizedSymbol", attr="class", symbollevels="0")
    categories, symbols = (ElementTree.SubElement(renderer, name) for name in ("categories", "symbols"))
    for index, each in enumerate(labels):
        value = str(index)
        ElementTree.SubElement(
            categories, "category", value=value, type="integer", symbol=value, label=legible(each.name), render="true"
        )
        symbol = ElementTree.SubElement(symbols, "symbol", type="fill", name=value, alpha="1", clip_to_extent="1")
        layer = ElementTree.SubElement(
            symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0", "locked": "0"}
        )
        options = ElementTree.SubElement(layer, "Option", type="Map")
        red, green, blue = each.color
        for name, text in {
            "color": f"{red},{green},{blue},{_OPACITY}",
            "outline_color": f"{red},{green},{blue},255",
            "outline_style": "solid",
            "outline_width": "0.26",
            "outline_width_unit": "MM",
            "style": "solid",
        }.items():
            ElementTree.SubElement(options, "Option", name=name, type="QString", value=text)
    return b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + ElementTree.tostring(root, "utf-8") + b"\n"
