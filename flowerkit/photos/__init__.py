"""A folder of photos becomes shards."""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Conversion": "report",
        "load_conversion": "report",
        "convert_photos": "conversion",
        "load_photos": "conversion",
        "read_photo": "reader",
        "UnreadablePhoto": "reader",
        "RESIZE_METHODS": "report",
        "SUFFIXES": "listing",
        "holds_photos": "listing",
        "find_converted": "conversion",
        "TEST_LABELS": "conversion",
        "convert_with_beam": "beam",
    },
)
