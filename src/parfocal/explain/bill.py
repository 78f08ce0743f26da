"""The bill of a prediction: what it cost, in one line, compared with encoding every patch."""

from parfocal.cost import Cost

ABOVE_ALL = 1.0005  # the smallest share that is printed as more than 100.0%
NO_PIXELS = "no pixels read"
NOT_ENCODED = "nothing encoded"  # the features were stored
ABOVE_ALL_NOTE = "; more than 100% because lower magnifications and tissue detection are included"
BYTE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
MAC_UNITS = {"TMAC": 1e12, "GMAC": 1e9, "MMAC": 1e6, "kMAC": 1e3, "MAC": 1}


def bill_of(
    cost: Cost, *, unreachable: float | None = None, is_remote: bool = False, note: str = ""
) -> str:
    """Return the cost in one line, compared with encoding every tissue patch.

    Args:
        cost: measured cost; `cost.exhaustive` is not None.
        unreachable: share of the tissue out of reach; None if unknown.
        is_remote: whether the slide is at a URL, so that requests count.
        note: what to add at the end, instead of why a share exceeds 100%.
    """
    exhaustive = cost.exhaustive
    assert exhaustive is not None
    shares = [share for share in (cost.share_patches, cost.share_pixels) if share is not None]
    above_all = ABOVE_ALL_NOTE if max(shares, default=0.0) >= ABOVE_ALL else ""
    lost = "" if unreachable is None else f", {percent_of_tissue(unreachable)}"
    return (
        f"visited {sum(cost.patches):,} of {exhaustive.patches:,} patches "
        f"({_percent(cost.share_patches)}), {_pixels(cost)}, "
        f"{_macs_text(cost)}, {cost.seconds['total']:.1f} s"
        f"{_bytes(cost, is_remote=is_remote)}{lost}{f'; {note}' if note else above_all}"
    )


def percent_of_tissue(unreachable: float) -> str:
    """Return the share of tissue out of reach as text.

    >>> percent_of_tissue(0.0), percent_of_tissue(0.26)
    ('0.0% of the tissue out of reach', '26.0% of the tissue out of reach')
    """
    return f"{_percent(unreachable) if unreachable else '0.0%'} of the tissue out of reach"


def _percent(share: float | None) -> str:
    """Format a share as a percentage with at least two significant digits.

    >>> _percent(0.0749), _percent(0.00042), _percent(1.2)
    ('7.5%', '0.042%', '120.0%')
    """
    if share is None:
        return "not comparable"
    return f"{100 * share:.1f}%" if share >= 0.01 else f"{100 * share:.2g}%"


def _macs_text(cost: Cost) -> str:
    """Return the multiply-accumulates, as part of the bill; with stored features, that none is."""
    assert cost.exhaustive is not None
    if cost.exhaustive.macs is None and _pixels(cost) == NO_PIXELS:
        return NOT_ENCODED
    return _macs(cost.macs, cost.exhaustive.macs)


def _macs(macs: int | None, exhaustive: int | None) -> str:
    """Format two counts of multiply-accumulates in one unit, which is chosen for the first.

    >>> _macs(1_234_000_000_000, 16_400_000_000_000), _macs(74_600_000, 2_500_400_000), _macs(6, 0)
    ('1.23 of 16.4 TMAC', '74.6 of 2,500 MMAC', '6 of 0 MAC')
    """
    if macs is None or exhaustive is None:
        return "MACs unknown"
    unit = next((unit for unit, size in MAC_UNITS.items() if macs >= size), "MAC")
    counts = [count / MAC_UNITS[unit] for count in (macs, exhaustive)]
    texts = [f"{count:.3g}" if count < 999.5 else f"{count:,.0f}" for count in counts]
    return f"{' of '.join(texts)} {unit}"


def _pixels(cost: Cost) -> str:
    """Return the pixels read, as part of the bill; none with stored features."""
    if cost.share_pixels is None:
        return f"{cost.pixels_decoded:,} pixels read" if cost.pixels_decoded else NO_PIXELS
    return f"{_percent(cost.share_pixels)} of the pixels"


def _bytes(cost: Cost, *, is_remote: bool) -> str:
    """Return the bytes read of the file, as part of the bill; of a remote slide, the requests."""
    share = cost.share_bytes
    if share is None or cost.bytes_read is None or cost.file_bytes is None:
        return ""
    unit, size = next((u for u in BYTE_UNITS if cost.file_bytes >= u[1]), BYTE_UNITS[-1])
    counts = " of ".join(f"{n / size:.3g}" for n in (cost.bytes_read, cost.file_bytes))
    noun = "request" if cost.requests == 1 else "requests"
    requests = f" in {cost.requests:,} {noun}" if is_remote and cost.requests else ""
    twice = ", parts of it more than once" if share >= ABOVE_ALL else ""
    return f", read {counts} {unit} ({_percent(share)}{twice}){requests}"
