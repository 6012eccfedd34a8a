"""What a run tells: the object behind the table and behind ``--json`` (schema 1, kemu_lab/data/run.schema.json)."""

from __future__ import annotations

import attrs

from kemu_lab.phases import Phase

SCHEMA = 1


@attrs.define
class Pages:
    """Pages of the processes: touched, moved, compared."""

    touched: int = 0
    swapped_out: int = 0
    swapped_in: int = 0
    verified: int = 0
    lost: int = 0


@attrs.define
class Net:
    """The client's network: frames, and what was dropped where.

    :ivar gates: of allocation, protocol and socket: what passed as normal, what as emergency, what was dropped.
    """

    rx_frames: int = 0
    tx_frames: int = 0
    retransmits: int = 0
    emergency_skbs: int = 0
    drops: dict[str, int] = attrs.Factory(dict)
    gates: dict[str, dict[str, int]] = attrs.Factory(dict)


@attrs.define
class Reserve:
    """The memory reserve: its size in pages, and the use of the SKB data reserve in bytes.

    :ivar trespassers: the most normal packets that were seen at once in pages of the reserve.
    """

    pages_emerg: int = 0
    limit_bytes: int = 0
    peak_bytes: int = 0
    end_of_load_bytes: int = 0
    left_bytes: int = 0
    leaked_pages: int = 0
    trespassers: int = 0


@attrs.define
class Reclaim:
    """What reclaim had to do.

    :ivar mempool_sleeps: naps for an element of an empty memory pool, of at most 5 s each; by whomever.
    """

    kswapd_wakes: int = 0
    direct_reclaims: int = 0
    throttled: int = 0
    mempool_sleeps: int = 0
    oom_kills: int = 0


@attrs.define
class Nfs:
    """The client's RPCs for data, and how often it had to ask again.

    :ivar cred_references: references to credentials that are held at the end of the load.
    """

    writes: int = 0
    reads: int = 0
    retransmissions: int = 0
    reconnects: int = 0
    cred_references: int = 0


@attrs.define
class Disk:
    """The client's own disks: requests done, and bios that joined a request."""

    writes: int = 0
    reads: int = 0
    merged: int = 0


@attrs.define
class Acceptance:
    """What only the acceptance test tells. Times are virtual ns.

    :ivar scale: of memory and processes, as typed; ``process_pages``: of each of the four.
    :ivar away_ns: when the server went; ``back_ns`` when it came back, None if it did not.
    :ivar first_page_ns: when the server had done the first WRITE or READ after its return.
    :ivar connects_ns: when the client began to connect, from the outage on.
    :ivar messages: what the client's kernel said of the server.
    """

    scale: str = "1"
    process_pages: int = 0
    uid: int = 0
    proto: str = "tcp"
    traffic: str = "mixed"
    outage_how: str = "stop"
    outage_ns: int | None = 0
    away_ns: int | None = None
    back_ns: int | None = None
    first_page_ns: int | None = None
    connects_ns: list[int] = attrs.Factory(list)
    messages: list[str] = attrs.Factory(list)
    file_pages_compared: int = 0
    foreign_frames: int = 0


@attrs.define
class RunResult:
    """One run: how it ended, why, and the counters."""

    scenario: str
    seed: int
    patches: list[int]
    dropped: list[int]
    fixes: list[str]
    command: str
    swap: str = "nfs"
    mem_pages: int = 0
    outcome: str = "survived"
    also: list[str] = attrs.Factory(list)
    reason: str = ""
    chain: list[str] = attrs.Factory(list)
    virtual_ns: int = 0
    wall_seconds: float = 0.0
    history: str = ""
    pages: Pages = attrs.Factory(Pages)
    net: Net = attrs.Factory(Net)
    reserve: Reserve = attrs.Factory(Reserve)
    reclaim: Reclaim = attrs.Factory(Reclaim)
    nfs: Nfs = attrs.Factory(Nfs)
    disk: Disk = attrs.Factory(Disk)
    phases: list[Phase] = attrs.Factory(list)
    acceptance: Acceptance | None = None

    @property
    def lived(self) -> bool:
        """Tell whether the machine lived: exit status 0."""
        return self.outcome == "survived"

    def as_json(self) -> dict[str, object]:
        """Return the object that ``--json`` prints; what only another scenario tells is not in it."""
        body = attrs.asdict(self)
        if self.acceptance is None:
            del body["acceptance"], body["phases"]
        body["virtual_seconds"] = self.virtual_ns / 1e9
        return {"schema": SCHEMA, **body}
