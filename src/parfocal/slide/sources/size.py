"""Numbers of bytes as text."""

UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def describe_bytes(count: int) -> str:
    """Return a number of bytes as text.

    >>> describe_bytes(1_234_567_890), describe_bytes(45_600_000), describe_bytes(12)
    ('1.2 GB', '45.6 MB', '12 bytes')
    """
    unit, size = next((each for each in UNITS if count >= each[1]), ("bytes", 1))
    return f"{count / size:.1f} {unit}" if size > 1 else f"{count} bytes"
