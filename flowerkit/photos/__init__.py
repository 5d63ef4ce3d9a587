"""A folder of photos becomes shards in the competition's layout; nothing here trains or predicts.

walk             which files are photos, and what else lies around
tree             whether sub folders are classes, or splits that hold class folders
labels           labels in a csv, or in the file names
decisions        what a person decided on labels that looked wrong, as a csv
listing          the photos of a folder with their classes (by folder or csv), ids and given splits
reader           a photo as a square JPEG: formats, orientation, colours, resizing
cache            photos read by processes and kept on the disk until the shards are written
assignment       which photo goes to which split; near duplicates
conversion       convert_photos, and load_photos, which converts into the user's cache
conversion_file  conversion.json: what was converted and how; the names of the resize methods
beam             reading and writing a conversion on a cluster, by Apache Beam
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "conversion": "convert_photos load_photos find_converted TEST_LABELS",
        "conversion_file": "load_conversion check_resize",
        "reader": "read_photo UnreadablePhoto",
        "labels": "LabelsCsv",
        "decisions": "LEAVE_OUT Decision apply_decisions find_left_out is_decisions "
        "read_decisions relabel write_decisions",
        "listing": "list_photos Folders",
        "walk": "find_photos walk_photos SUFFIXES",
    },
)
