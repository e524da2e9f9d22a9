"""Pictures on disk become upright RGB arrays: the public face of this package."""

from engine.images.exif import Capture
from engine.images.formats import DEFAULT_MAX_PIXELS, IMAGE_SUFFIXES
from engine.images.listing import FoundImages, LeftOut, find_images, is_tiff, list_images, real_path
from engine.images.read import SourceImage, image_of_array, read_image
from engine.images.size import DEFAULT_MAX_IMG_SIZE, ImageLimits, shrunken_size
from engine.images.values import ScaleRange

__all__ = [
    "DEFAULT_MAX_IMG_SIZE",
    "DEFAULT_MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "Capture",
    "FoundImages",
    "ImageLimits",
    "LeftOut",
    "ScaleRange",
    "SourceImage",
    "find_images",
    "image_of_array",
    "is_tiff",
    "list_images",
    "read_image",
    "real_path",
    "shrunken_size",
]
