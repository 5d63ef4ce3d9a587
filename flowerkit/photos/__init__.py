"""A folder of photos becomes shards in the competition's layout; nothing here trains or predicts.

listing     which files are photos, their classes (by folder or csv), ids and given splits
reader      one photo as a square JPEG: formats, orientation, colours, resize methods
cache       all photos read by processes and kept on the disk until the shards are written
assignment  which photo goes to which split; duplicates
conversion  the whole: convert_photos, and load_photos, which converts into the user's cache
report      Conversion, the file conversion.json
beam        its reading and writing on a cluster, by Apache Beam
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "convert_photos": "conversion",
        "load_photos": "conversion",
        "find_converted": "conversion",
        "TEST_LABELS": "conversion",
        "Conversion": "report",
        "load_conversion": "report",
        "check_resize": "report",
        "read_photo": "reader",
        "UnreadablePhoto": "reader",
        "find_photos": "listing",
        "SUFFIXES": "listing",
    },
)
