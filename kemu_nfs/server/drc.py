"""The duplicate request cache (2.6.23 fs/nfsd/nfscache.c): a request that comes twice is executed once.

A client that hears nothing sends its request again, with the same xid. A WRITE that is executed again after a newer WRITE of the
same place would bring back old data, and a second REMOVE would fail. So the server remembers what it answered.

Interface
    * ``lookup(key)``: the entry of a request, new or known. Look at ``entry.reply`` and ``entry.busy``.
    * ``finish(entry)``, ``forget(entry)``: the request was answered; or must be executed again should it return.

Rules of this file
    * A request that is still being worked at is dropped when it comes again; one that was answered gets the same bytes.
    * The key has a checksum of all arguments: a client that rebooted may use an xid again for something else.
    * Bounded, in entries and in bytes of a reply. The entry that was answered longest ago goes first; one that is being worked at
      never does.
    * An answer is given again for two minutes (RC_EXPIRE); later the xid is taken for another request's.
    * It lives in the server's memory: a loss of power empties it, an end of the service does not.
    * Left out: hash chains, and that an answered request which comes again within 200 ms is dropped (RC_DELAY): over TCP the
      client then waits a minute for nothing, and later kernels do not.
"""

from __future__ import annotations

from kemu.errors import KernelBug

CACHESIZE = 1024
EXPIRE_NS = 120_000_000_000
MAX_REPLY = 1024  # bytes; the longest that a cached procedure makes is 300

DrcKey = tuple[int, int, int, int, int]  # client, xid, program << 8 | version, procedure, checksum of the arguments


class CacheEntry:
    """A request that may come again: ``reply`` is None until it was executed, ``busy`` until its reply was sent.

    :ivar since_ns: when it came first.
    """

    __slots__ = ("busy", "hits", "key", "reply", "since_ns")

    def __init__(self, key: DrcKey, since_ns: int) -> None:
        self.key = key
        self.since_ns = since_ns
        self.reply: bytes | None = None
        self.busy = True
        self.hits = 0


class DuplicateRequestCache:
    """The cache of one server.

    :param size: how many requests it remembers.
    """

    def __init__(self, size: int = CACHESIZE) -> None:
        self.size = size
        self.entries: dict[DrcKey, CacheEntry] = {}  # in the order of being answered; busy ones keep the place of their arrival
        self.misses = 0
        self.replayed = 0
        self.dropped = 0

    def lookup(self, key: DrcKey, now_ns: int = 0) -> CacheEntry:
        """Return the entry of a request; a new one has ``hits`` 0 and the caller executes it (nfsd_cache_lookup())."""
        entry = self.entries.get(key)
        if entry is not None and now_ns - entry.since_ns > EXPIRE_NS and not entry.busy:
            del self.entries[key]
            entry = None
        if entry is None:
            self.misses += 1
            if len(self.entries) >= self.size:
                self._make_room()
            entry = self.entries[key] = CacheEntry(key, now_ns)
            return entry
        entry.hits += 1
        if entry.busy:
            self.dropped += 1
        else:
            self.replayed += 1
        return entry

    def _make_room(self) -> bool:
        """Drop the oldest entry that is not busy; if all are, grow for a while rather than execute something twice."""
        for key, entry in self.entries.items():
            if not entry.busy:
                del self.entries[key]
                return True
        return False

    def finish(self, entry: CacheEntry) -> None:
        """Note that the reply was sent: from now on a duplicate gets the same (nfsd_cache_update())."""
        if entry.busy and self.entries.get(entry.key) is entry:
            entry.busy = False
            del self.entries[entry.key]
            if entry.reply is None or len(entry.reply) <= MAX_REPLY:
                self.entries[entry.key] = entry
            while len(self.entries) > self.size and self._make_room():
                pass

    def forget(self, entry: CacheEntry) -> None:
        """Drop a request that was not executed: a duplicate starts anew (RC_NOCACHE)."""
        if self.entries.get(entry.key) is entry:
            del self.entries[entry.key]

    def settle(self) -> None:
        """End the service: what was executed counts as answered, what was not is forgotten.

        Otherwise the duplicates of a request that nobody works at any more would be dropped for ever.
        """
        for entry in [entry for entry in self.entries.values() if entry.busy]:
            if entry.reply is None:
                self.forget(entry)
            else:
                self.finish(entry)

    def clear(self) -> None:
        """Lose everything, with the server's memory (nfsd_reply_cache_shutdown())."""
        self.entries.clear()

    def check(self) -> None:
        """Assert that the cache is bounded and that no answered entry lacks its answer."""
        busy = sum(entry.busy for entry in self.entries.values())
        if len(self.entries) > max(self.size, busy):
            raise KernelBug(f"{len(self.entries)} entries in a cache of {self.size}, {busy} of them busy", state=self)
        for key, entry in self.entries.items():
            if entry.key != key or (not entry.busy and entry.reply is None):
                raise KernelBug(f"entry {key} is answered without an answer", state=entry)
