"""TIFFs that want other files or addresses opened, and what lies beside them."""
# rasterio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from tests.engine.images.tiffs import (
    ASCII,
    BITS,
    BYTE,
    DOUBLE,
    LONG,
    PHOTOMETRIC,
    SAMPLES,
    SHORT,
    Page,
    Value,
    tiff_file,
)

SIDE = 600
GEO_KEYS, GEO_TEXTS, GDAL_METADATA = 34735, 34737, 42112
UTM = (
    'PROJCS["p",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",147],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",10000000],UNIT["metre",1]%s]'
)
SPHERE = (
    'PROJCS["x",GEOGCS["y",DATUM["z",SPHEROID["unnamed",6378137,0],EXTENSION["PROJ4_GRIDS","%s"]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Mercator_1SP"],'
    'PARAMETER["central_meridian",0],PARAMETER["scale_factor",1],PARAMETER["false_easting",0],'
    'PARAMETER["false_northing",0],UNIT["metre",1]]'
)
BOUND = (
    'BOUNDCRS[SOURCECRS[GEOGCRS["NTF",DATUM["NTF",ELLIPSOID["Clarke",6378249.2,293.466021293627]],'
    'PRIMEM["Greenwich",0],CS[ellipsoidal,2],AXIS["latitude",north],AXIS["longitude",east],'
    'ANGLEUNIT["degree",0.0174532925199433]]],TARGETCRS[GEOGCRS["WGS 84",DATUM["World Geodetic System 1984",'
    'ELLIPSOID["WGS 84",6378137,298.257223563]],CS[ellipsoidal,2],AXIS["latitude",north],AXIS["longitude",east],'
    'ANGLEUNIT["degree",0.0174532925199433],ID["EPSG",4326]]],ABRIDGEDTRANSFORMATION["t",METHOD["NTv2",'
    'ID["EPSG",9615]],PARAMETERFILE["Latitude and longitude difference file","%s"]]]'
)
PLACED: Mapping[int, Value] = {33550: (DOUBLE, [1.0, 1.0, 0.0]), 33922: (DOUBLE, [0.0, 0, 0, 5e5, 6e6, 0])}


def picture(more: Mapping[int, Value] | None = None, side: int = SIDE) -> Page:
    """A picture of colours with a place on the earth, and more tags."""
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    tags: dict[int, Value] = {BITS: (SHORT, [8] * 3), PHOTOMETRIC: (SHORT, [2]), SAMPLES: (SHORT, [3]), **PLACED}
    return Page(side, side, pixels.tobytes(), {**tags, **(more or {})})


def metadata(domain: str, item: str, value: str, kind: int = ASCII) -> Mapping[int, Value]:
    """GDAL's metadata with one item."""
    text = f"<GDALMetadata><Item name={item} domain={domain}>{value}</Item></GDALMetadata>\0".encode()
    return {GDAL_METADATA: (kind, text if kind in {ASCII, BYTE} else list(text))}


def coordinate_system(wkt: str, kind: int = ASCII) -> Mapping[int, Value]:
    """A coordinate reference system as a text that GDAL parses."""
    text = f"ESRI PE String = {wkt}|\0".encode()
    keys = [1, 1, 0, 4, 1024, 0, 1, 32767, 1025, 0, 1, 1, 3072, 0, 1, 32767, 3073, GEO_TEXTS, len(text) - 1, 0]
    return {GEO_KEYS: (SHORT, keys), GEO_TEXTS: (kind, text if kind in {ASCII, BYTE} else list(text))}


def naming_others(secret: Path, url: str) -> dict[str, bytes]:
    """Make pictures that name another file or an address.

    Args:
        secret: a TIFF that none of them may make anybody open.
        url: that nobody may call.

    Returns:
        Names to contents.
    """
    source = f'<SimpleSource><SourceFilename relativeToVRT="0">{secret}</SourceFilename></SimpleSource>'
    bands = "".join(f'<VRTRasterBand dataType="Byte" band="{band}">{source}</VRTRasterBand>' for band in (1, 2, 3))
    inline = f'<VRTDataset rasterXSize="{SIDE // 2}" rasterYSize="{SIDE // 2}">{bands}</VRTDataset>'
    escaped = inline.replace("<", "&lt;").replace(">", "&gt;")
    domain, item = quoteattr("OVERVIEWS"), quoteattr("OVERVIEW_FILE")
    entities = ('"OVERV&#x49;EWS"', '"&#79;VERVIEW_FILE"')
    overviews = {
        "file": metadata(domain, item, str(secret)),
        "description": metadata(domain, item, escaped),
        "address": metadata(domain, item, f"/vsicurl/{url}"),
        "beside": metadata(domain, item, f":::BASE:::../elsewhere/{secret.name}"),
        "lower_case": metadata('"overviews"', '"overview_file"', str(secret)),
        "entities": metadata(*entities, str(secret)),
        "bytes": metadata(domain, item, str(secret), BYTE),
        "shorts": metadata(domain, item, str(secret), SHORT),
    }
    systems = {
        "grids": UTM % f',EXTENSION["PROJ4","+proj=utm +zone=55 +south +ellps=intl +nadgrids={secret} +no_defs"]',
        "optional_grids": UTM % f',EXTENSION["PROJ4","+proj=utm +zone=55 +ellps=intl +nadgrids=@{secret} +no_defs"]',
        "init": UTM % f',EXTENSION["PROJ4","+init={secret}:x"]',
        "datum_grids": SPHERE % secret,
        "bound": BOUND % secret,
        "pipeline": UTM % f',EXTENSION["PROJ4","+proj=pipeline +step +proj=gridshift +grids={secret}"]',
        "lower_case": (UTM % f',extension [ "PROJ4" , "+proj=utm +zone=55 +nadgrids={secret}"]'),
        "vertical": f'COMPD_CS["c",{UTM % ""},VERT_CS["v",VERT_DATUM["d",2005,EXTENSION["PROJ4_GRIDS","{secret}"]],'
        'UNIT["metre",1],AXIS["Up",UP]]]',
    }
    return {
        **{f"overview_{name}.tif": tiff_file(picture(tags)) for name, tags in overviews.items()},
        "overview_of_page_2.tif": tiff_file(picture(), picture(overviews["file"])),
        "overview_of_overview.tif": tiff_file(
            picture(), picture({254: (LONG, [1]), **overviews["file"]}, side=SIDE // 2)
        ),
        "overview_nested.tif": tiff_file(replace(picture(), nested=[picture(overviews["file"])])),
        **{f"system_{name}.tif": tiff_file(picture(coordinate_system(wkt))) for name, wkt in systems.items()},
        "system_bytes.tif": tiff_file(picture(coordinate_system(systems["datum_grids"], BYTE))),
        "system_shorts.tif": tiff_file(picture(coordinate_system(systems["datum_grids"], SHORT))),
        "description.tif": inline.encode(),
        "order.tif": tiff_file(picture(overviews["file"]), order=">", big=True),
        "geolocation.tif": tiff_file(picture(metadata('"GEOLOCATION"', '"X_DATASET"', str(secret)))),
        "subdatasets.tif": tiff_file(picture(metadata('"SUBDATASETS"', '"SUBDATASET_1_NAME"', str(secret)))),
        "proxy.tif": tiff_file(picture(metadata('"ProxyOverviewRequest"', '"OVERVIEW_FILE"', str(secret)))),
    }


def with_side_files(folder: Path, secret: Path, url: str) -> list[Path]:
    """Write good pictures beside which files lie that GDAL would open.

    Args:
        folder: takes them.
        secret: a TIFF.
        url: that nobody may call.

    Returns:
        What lies beside the pictures.
    """
    beside: list[Path] = []
    source = f'<SimpleSource><SourceFilename relativeToVRT="0">/vsicurl/{url}</SourceFilename></SimpleSource>'
    band = f'<VRTRasterBand dataType="Byte" band="1">{source}</VRTRasterBand>'
    described = f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}">{band}</VRTDataset>'
    persistent = (
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{secret}</MDI></Metadata>'
        '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    plain = dict(picture().tags)
    for tag in PLACED:
        del plain[tag]
    unplaced = tiff_file(Page(SIDE, SIDE, picture().body, plain))
    for number, name in enumerate(
        [
            "{0}.tif.ovr", "{0}.tif.msk", "{0}.ovr", "{0}.msk", "{0}.tif.aux.xml", "{0}.aux.xml", "{0}.aux", "{0}.prj",
            "{0}.tab", "{0}.TAB", "{0}.imd", "{0}.IMD", "{0}.rpb", "{0}_RPC.TXT", "{0}_rpc.txt", "{0}.tif.xml",
            "{0}.xml", "{0}.rrd", "{0}.tif.rrd", "metadata.xml", "{0}_MTL.txt", "{0}.geo.xml", "{0}.tif.tfw",
        ]
    ):  # fmt: skip
        stem = f"beside{number}"
        (folder / f"{stem}.tif").write_bytes(unplaced)
        target = folder / name.format(stem)
        if name.endswith((".ovr", ".msk")) and number % 2:
            target.write_text(described)
        elif name.endswith((".ovr", ".msk", ".rrd")):
            shutil.copy(secret, target)
        else:
            target.write_text(persistent if "aux" in name else "LINE_OFF: 1\n1\n0\n0\n-1\n5\n5\n")
        beside.append(target)
    linked = folder / "linked.tfw"
    (folder / "linked.tif").write_bytes(unplaced)
    linked.symlink_to(secret)
    beside.append(linked)
    return beside
