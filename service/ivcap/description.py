"""The description of the service for the platform, for people and for agents; the same for orders, jobs and tools."""

# The platform's library states few types.
# pyright: reportMissingTypeStubs=false

import json
import logging
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ivcap_service import Service, ServiceContact, ServiceLicense
from ivcap_service.service_definition import ServiceDefinition
from ivcap_service.tool_definition import SERVICE_ID_PLACEHOLDER, ToolDefinition
from pydantic import BaseModel

from engine import Device

_log = logging.getLogger(__name__)
_PROJECT_FILE = Path(__file__).parents[2] / "pyproject.toml"

_WHAT = """\
Segments photographs and georeferenced rasters (GeoTIFF, such as orthomosaics) with a PaddleSeg model: each pixel gets
one of the model's classes, for instance sand, seagrass or rock. For every class it reports the cover, which is the
class's share of the image's pixels.
"""
_MASK = """\
the URN of its mask, the width and height of the image in pixels, and the cover of every class as a number from 0 to 1.
The mask of a photograph is a palette PNG of the same size whose values are class indices. The mask of a raster is a
GeoTIFF with the same georeference; the result then also states the coordinate reference system, the bounds, and the
area of every class in square metres, and the URN of the polygons of the classes if vectors asks for them.
"""
_TEXT = f"""\
{_WHAT}

Use it to measure what a photograph, a set of photographs, a survey or an orthomosaic shows, for example the cover of
seagrass in quadrats. It needs the URN of a model bundle, which is an artifact of the platform, and of the images:
one artifact (image), or several artifacts or a collection (images). It cannot train a model, and it finds only the
classes that the model knows; the result names them.

It returns for each image {_MASK} It also returns the cover over all images by two rules (every pixel counts once, or
every image counts once), the images that failed with the reasons, the URNs of a CSV table of cover, of the collection
of masks and, if report is true, of an HTML report, and a record of what ran.

An image that cannot be read is listed among the failures, and the others are processed. The request fails, with all
reasons, if no image succeeds or if a result cannot be stored. The covers of one image add up to 1 unless the classes of
the model overlap.
"""
_PICTURE_TEXT = f"""\
{_WHAT}

Use it to measure what one photograph shows, when the answer is wanted within seconds. For several images, or a large
raster, use the service of the same name without lambda. It needs the URN of a model bundle and the URN of the image;
both are artifacts of the platform. It cannot train a model, and it finds only the classes that the model knows; the
result names them.

It returns for the image {_MASK} It also returns the URNs of a CSV table of cover and of the mask's collection, and a
record of what ran.

The request fails, with the reason, if the image cannot be read or a result cannot be stored. The covers of an image
add up to 1 unless the classes of the model overlap.
"""


def _paragraphs(text: str) -> str:
    # The library of orders reads a percent sign as one of argparse's.
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


DESCRIPTION = _paragraphs(_TEXT)
PICTURE_DESCRIPTION = _paragraphs(_PICTURE_TEXT)
"""Of the service that takes one image per request."""

EXAMPLE: Mapping[str, Any] = {
    "model": "urn:ivcap:artifact:2b5f7c1e-3d0a-4b6e-9c51-7a1f0e6d8c42",
    "images": [
        "urn:ivcap:artifact:8e0d4a63-51f2-4c7b-b1a9-0c3e5d7f9a10",
        "urn:ivcap:artifact:c47a9e25-6b18-4f0d-8d3c-2e9b1a5c7f64",
    ],
    "report": True,
}
"""A request that runs where its three URNs are those of a bundle and two photographs."""

_MODEL_URN = EXAMPLE["model"]
_IMAGE_URN = EXAMPLE["images"][0]
_COLLECTION_URN = "urn:ivcap:collection:5d9c3b7a-0e42-4f86-a1d8-6b2f4c8e0a93"


@dataclass(frozen=True, slots=True)
class _Shown:
    """How a parameter is shown beside its own description: a name for people, and values that may be given."""

    title: str
    examples: tuple[object, ...]


_SHOWN: Mapping[str, _Shown] = {
    "model": _Shown("Model bundle", (_MODEL_URN,)),
    "image": _Shown("Image", (_IMAGE_URN,)),
    "images": _Shown("Images", (_COLLECTION_URN, EXAMPLE["images"])),
    "max-img-size": _Shown("Pixels for the network", (1_000_000, -1)),
    "scale-range": _Shown("Values that become 0 and 255", ("0,4095",)),
    "batch-size": _Shown("Images per run", (1, 4)),
    "device": _Shown("Device", ("cpu",)),
    "use-trt": _Shown("TensorRT", (True,)),
    "precision": _Shown("Precision", ("fp32",)),
    "min-subgraph-size": _Shown("Smallest subgraph for TensorRT", (3,)),
    "enable-auto-tune": _Shown("Collect shapes for TensorRT", (True,)),
    "cpu-threads": _Shown("Most CPU threads", (4,)),
    "enable-mkldnn": _Shown("oneDNN", (True,)),
    "benchmark": _Shown("Publish timings", (True,)),
    "model-name": _Shown("Name of the model in the timings", ("seagrass-2026",)),
    "with-argmax": _Shown("One class per pixel", (True,)),
    "print-detail": _Shown("Log of the runtime", (True,)),
    "runtime": _Shown("Runtime", ("auto",)),
    "provider": _Shown("Execution provider", ("auto",)),
    "threshold": _Shown("Threshold of a class", (0.5,)),
    "crop-size": _Shown("Sliding window", ("769,769",)),
    "stride": _Shown("Stride of the sliding window", ("513,513",)),
    "scales": _Shown("Scales", ("0.75,1.0,1.25",)),
    "flip-horizontal": _Shown("Left and right exchanged", (True,)),
    "flip-vertical": _Shown("Top and bottom exchanged", (True,)),
    "allow-tf32": _Shown("TF32 on a GPU", (True,)),
    "gpu-memory-limit": _Shown("Memory of the GPU", ("4GiB",)),
    "mask-size": _Shown("Size of the masks", ("original",)),
    "keep-classes": _Shown("Only classes", ("seagrass",)),
    "median": _Shown("Majority filter", (5,)),
    "fill-holes": _Shown("Fill holes", (True,)),
    "min-area": _Shown("Smallest patch", ("50px", "2cm2")),
    "ignore-bundle-cleanup": _Shown("Without the clean-up of the bundle", (True,)),
    "roi": _Shown("Region of interest", ("frame", "120,80,900,900")),
    "quadrat-size": _Shown("Size of the region on the ground", ("0.5mx0.5m",)),
    "exclude-class": _Shown("Classes that do not count", ("frame",)),
    "unsure": _Shown("Probability below which a pixel is unsure", (0.6,)),
    "tile": _Shown("Cut every image into tiles", (True,)),
    "as-photograph": _Shown("Georeferenced TIFFs as photographs", (True,)),
    "tile-size": _Shown("Side of a tile", (1024,)),
    "overlap": _Shown("Overlap of tiles", (256,)),
    "bands": _Shown("Bands of rasters", ("3,2,1",)),
    "vectors": _Shown("Polygons of rasters", ("gpkg", "geojson")),
    "simplify": _Shown("Tolerance of simplified polygons", ("2px", "0.05m")),
    "report": _Shown("HTML report", (True,)),
    "overlay": _Shown("Look of overlays", ("fill", "outline")),
    "overlay-strength": _Shown("Opacity of overlays", (0.5,)),
    "shard": _Shown("Share of the images", ("1/4", "4/4")),
}


def service_name(device: Device) -> str:
    return "infer-with-paddle-paddle" + ("-gpu" if device is Device.GPU else "")


def service_from(environment: Mapping[str, str], device: Device) -> Service:
    """Describe the service to the platform of jobs: name, version, contact and licence, without request and result.

    PSEG_SERVICE_CONTACT and PSEG_SERVICE_EMAIL take the place of the first maintainer that pyproject.toml names.
    """
    project = tomllib.loads(_PROJECT_FILE.read_text(encoding="utf-8"))["project"]
    maintainer = project["maintainers"][0]
    return Service(
        name=service_name(device),
        version=environment.get("PSEG_VERSION") or project["version"],
        contact=ServiceContact(
            name=environment.get("PSEG_SERVICE_CONTACT") or maintainer["name"],
            email=environment.get("PSEG_SERVICE_EMAIL") or maintainer["email"],
        ),
        license=ServiceLicense(name=project["license"], url=f"https://spdx.org/licenses/{project['license']}.html"),
    )


def request_schema(request: type[BaseModel], example: Mapping[str, Any] = EXAMPLE) -> dict[str, Any]:
    """Describe a request as JSON schema of an object that needs no looking up; `example` is a whole request.

    Each parameter has a type, and a title and examples of its own; choices stand in its place, not among definitions,
    and what may be left out is not also allowed to be null.
    """
    schema = request.model_json_schema()
    definitions = schema.pop("$defs", {})
    properties: dict[str, dict[str, Any]] = {}
    for name, described in schema["properties"].items():
        plain = _plain(described, definitions)
        if not name.startswith("$"):
            shown = _SHOWN.get(name) or _shown_by_default(name, plain)
            plain = {"title": shown.title, **_without(plain, "title"), "examples": list(shown.examples)}
        properties[name] = plain
    return {**schema, "properties": properties, "example": dict(example)}


def _shown_by_default(name: str, described: Mapping[str, Any]) -> _Shown:
    example = True if described.get("type") == "boolean" else described.get("default")
    return _Shown(name.replace("-", " ").capitalize(), () if example is None else (example,))


def _plain(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    alternatives = [each for each in described.get("anyOf", []) if each.get("type") != "null"]
    if "$ref" in described:
        definition = definitions[described["$ref"].removeprefix("#/$defs/")]
        plain = {**_without(definition, "title", "description"), **_without(described, "$ref")}
    elif len(alternatives) == 1:
        plain = {**_plain(alternatives[0], definitions), **_without(described, "anyOf")}
    elif alternatives:
        plain = {**described, "anyOf": [_plain(each, definitions) for each in alternatives]}
    else:
        plain = dict(described)
    return plain if plain.get("default", ...) is not None else _without(plain, "default")


def _without(described: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in described.items() if name not in names}


def completed(
    definition: ServiceDefinition, device: Device, schema: Mapping[str, Any], description: str = DESCRIPTION
) -> dict[str, Any]:
    """Complete what the platform's library says of the service.

    A warning tells if nobody is named who answers for the service.
    """
    described = definition.model_dump(by_alias=True, exclude_none=True)
    resources = json.loads(Path(os.environ["IVCAP_RESOURCES_FILE"]).read_text(encoding="utf-8"))
    if device is Device.GPU:
        resources["limits"].setdefault("nvidia.com/gpu", "1")
    # The library drops what it does not know, a GPU for instance.
    described["controller"]["resources"] = resources
    address = described["contact"]["email"]
    if address.endswith(".example"):
        _log.warning(
            "the contact is the example %s: name who answers for the service under maintainers in pyproject.toml, or "
            "in PSEG_SERVICE_CONTACT and PSEG_SERVICE_EMAIL",
            address,
        )
    return {**described, "description": description, "request-schema": schema}


def tool_from(
    environment: Mapping[str, str], name: str, schema: Mapping[str, Any], returned: str, description: str = DESCRIPTION
) -> ToolDefinition:
    """Describe the service as a tool that an agent calls: the aspect by which the platform's `ivcap mcp` lists tools.

    Its parameters leave `$schema` out, since the interfaces of language models refuse names with a dollar sign. Without
    IVCAP_SERVICE_ID the identifier is filled in later.
    """
    name = name.replace("-", "_")
    parameters = {each: told for each, told in schema["properties"].items() if not each.startswith("$")}
    signature = ", ".join(
        f"{each}: {_type_of(told)}" + ("" if each in schema["required"] else f" = {told.get('default')!r}")
        for each, told in parameters.items()
    )
    return ToolDefinition(
        id=f"urn:sd-core:ai-tool.{name}",
        name=name,
        service_id=environment.get("IVCAP_SERVICE_ID") or SERVICE_ID_PLACEHOLDER,
        description=description,
        fn_signature=f"{name}({signature}) -> {returned}",
        fn_schema={**schema, "properties": parameters},
    )


_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}


def _type_of(described: Mapping[str, Any]) -> str:
    if "anyOf" in described:
        return " | ".join(map(_type_of, described["anyOf"]))
    if "enum" in described:
        return f"Literal{described['enum']!r}"
    if described["type"] == "array":
        return f"list[{_type_of(described['items'])}]"
    return _TYPES[described["type"]]
