"""Text that can be printed and written as UTF-8, whatever a file is called."""

import unicodedata


def printable(text: str) -> str:
    r"""Replace what cannot be printed or written as UTF-8 by the hexadecimal codes of its bytes.

    This is control characters, and the bytes of a file name that is not UTF-8, which Python
    represents by lone surrogates.

    >>> printable("caf\udce9\n.svs"), printable("café.svs")
    ('caf%E9%0A.svs', 'café.svs')
    """
    return "".join(
        f"%{ord(character) & 0xFF:02X}"
        if unicodedata.category(character) in ("Cc", "Cs")
        else character
        for character in text
    )
