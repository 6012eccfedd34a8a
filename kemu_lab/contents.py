"""What the pages of a process hold: the bytes of a real file, or a pattern that tells every page from every other."""

from __future__ import annotations

from pathlib import Path

from kemu.errors import ConfigError

PAGE_SIZE = 4096


class Pattern:
    """Contents that name themselves: seed, page number and version, repeated, so that a foreign page is seen at once."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def page(self, vpn: int, version: int) -> bytes:
        """Return the 4096 bytes of page ``vpn`` after its ``version``-th write."""
        word = (self.seed & 0xFFFFFFFF).to_bytes(4, "big") + vpn.to_bytes(8, "big") + version.to_bytes(4, "big")
        return word * (PAGE_SIZE // 16)


class FileFill:
    """Contents cut from a real file, page after page and round again; each page begins with its number: no two are equal."""

    def __init__(self, path: str) -> None:
        self.data = read_input(path, "--fill")
        if not self.data:
            raise ConfigError(f"--fill {path}: the file is empty")
        self.pages = -(-len(self.data) // PAGE_SIZE)

    def page(self, vpn: int, version: int) -> bytes:
        """Return the 4096 bytes of page ``vpn`` after its ``version``-th write."""
        start = (vpn % self.pages) * PAGE_SIZE
        body = self.data[start : start + PAGE_SIZE].ljust(PAGE_SIZE, b"\0")
        return vpn.to_bytes(8, "big") + version.to_bytes(4, "big") + body[12:]


def read_input(path: str, option: str) -> bytes:
    """Return the bytes of a file that a person named; what is wrong with it is a ConfigError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL byte in the name
        raise ConfigError(f"{option} {path!r}: {error}") from None
