"""Numbers as people say them."""


def count(num: int, noun: str) -> str:
    """The number and its noun, which takes an s unless there is one.

    >>> count(1, "seed"), count(1200, "photo")
    ('1 seed', '1,200 photos')
    """
    return f"{num:,} {noun}{'s' * (num != 1)}"


def say_bytes(num_bytes: float) -> str:
    """In GiB, or in MiB where that would begin with a zero.

    >>> say_bytes(3 * 2**29), say_bytes(70 * 2**20), say_bytes(4096)
    ('1.50 GiB', '70 MiB', '0.0 MiB')
    """
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.2f} GiB"
    mib = num_bytes / 2**20
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"
