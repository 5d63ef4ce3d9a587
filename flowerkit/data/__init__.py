"""What a data set is: records in shards, splits of images with ids and labels, duplicates and leaks.

Nothing here knows where data comes from (`sources`, `photos`), how it is augmented and batched
(`pipeline`), or what is trained on it. No framework is loaded.

    records      the file format of a shard, byte by byte
    example      `tf.train.Example`, the message in a record, without TensorFlow
    tfrecords    the competition's format: parsing at 224x224, shards found, written and checked
    class_names  the order of class names, names that look the same, and what a csv calls a class
    jpeg         JPEGs to pixels, by the fastest decoder that is installed
    images       the pixels of a split: decoded in the background, kept in RAM or decoded again
    splits       `load_split`: ids, labels, digests and images of a split, checked before training
    duplicates   pictures that are the same by their bytes or by their look
    leaks        `find_leaks`: pictures in two splits or under two labels
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "find_alike": "class_names",
        "find_csv_labels": "class_names",
        "sort_class_names": "class_names",
        "CorruptRecord": "records",
        "Record": "tfrecords",
        "read_records": "tfrecords",
        "complete_jpeg": "jpeg",
        "decode_jpeg": "jpeg",
        "decode_strictly": "jpeg",
        "find_decoder": "jpeg",
        "SPLITS": "tfrecords",
        "FlowerData": "tfrecords",
        "check_is_data": "tfrecords",
        "check_counts": "tfrecords",
        "find_ids": "tfrecords",
        "choose_shard_size": "tfrecords",
        "find_shards": "tfrecords",
        "find_sizes": "tfrecords",
        "write_shards": "tfrecords",
        "RAM_FRACTION": "splits",
        "Split": "splits",
        "check_leak": "splits",
        "load_split": "splits",
        "find_near_pairs": "duplicates",
        "group_rows": "duplicates",
        "picture_hash": "duplicates",
        "thumbnail": "duplicates",
        "draw_pairs": "leaks",
        "find_leaks": "leaks",
        "write_pairs": "leaks",
    },
)
