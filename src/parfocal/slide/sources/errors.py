"""Errors of remote slides. No message contains a query, a header or a credential."""

from parfocal.slide.errors import SlideError
from parfocal.slide.sources.url import SlidePath, SlideUrl


class RemoteError(SlideError):
    """A remote slide that cannot be read.

    Args:
        path: the slide.
        problem: what is wrong and what to do, as sentences.
    """

    def __init__(self, path: SlidePath, problem: str) -> None:
        super().__init__(f"{path.name}: {problem}")


class ChangedError(RemoteError):
    """A file that was replaced while it was read."""

    def __init__(self, path: SlidePath) -> None:
        place = f" on {path.host}" if isinstance(path, SlideUrl) else ""
        super().__init__(path, f"the file{place} changed while it was read. Read the slide again.")


class NoRangesError(RemoteError):
    """A server that sends whole files only."""

    def __init__(self, url: SlideUrl) -> None:
        super().__init__(
            url,
            f"{url.host} sends whole files only (it ignores Range), so the slide cannot be read in "
            "place. Add --scratch DIR to download it first.",
        )


class CanceledError(RemoteError):
    """A read that was given up because the slide was closed or the program interrupted."""

    def __init__(self, path: SlidePath) -> None:
        super().__init__(path, "reading was stopped, because the slide was closed.")


class TransientError(Exception):
    """A request that may succeed when it is repeated.

    Args:
        reason: why it failed, as a phrase without credentials.
        wait_s: seconds that the server asks to wait.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
