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
        "class_names": "find_alike find_csv_labels sort_class_names",
        "tfrecords": "Record read_records SPLITS FlowerData check_is_data "
        "find_ids choose_shard_size find_shards find_sizes write_shards",
        "jpeg": "complete_jpeg decode_jpeg decode_strictly find_decoder",
        "splits": "RAM_FRACTION Split check_leak load_split",
        "duplicates": "find_near_pairs group_rows picture_hash thumbnail",
        "leaks": "draw_pairs find_leaks write_pairs",
    },
)
