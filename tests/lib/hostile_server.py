"""Test helper: a server whose replies are bent on their way out, and a client that does everything once."""

from __future__ import annotations

import struct
from collections.abc import Callable

from hypothesis import strategies as st

from nfs_ground import PAGE, NfsGround, page_bytes

RESULTS = 28  # where results begin in a reply: mark, xid, REPLY, accepted, verifier, SUCCESS

# what may stand in a field: small numbers, the edges of integers, statuses that mean something
WORDS = st.sampled_from([0, 1, 2, 3, 5, 13, 28, 70, 84, 255, 4096, 10001, 10006, 10008, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])

BENDS = st.lists(
    st.tuples(
        st.integers(0, 40),  # how many replies pass before
        st.sampled_from(["word", "cut", "grow", "bytes"]),
        st.integers(0, 60),  # which word of the results
        WORDS,
    ),
    min_size=1,
    max_size=6,
)


def marked(body: bytes) -> bytes:
    """Put a record mark in front of a reply."""
    return struct.pack("!I", 0x80000000 | len(body)) + body


def bent(record: bytes, kind: str, word: int, value: int) -> bytes:
    """Change a reply's results; the record stays one."""
    at = RESULTS + 4 * word
    if kind == "cut":
        return marked(record[4:at])
    if kind == "grow":
        return marked(record[4:] + struct.pack("!I", value) * (word + 1))
    if at + 4 > len(record):
        return record
    if kind == "bytes":
        return record[:at] + struct.pack("!I", value * 0x01010101 & 0xFFFFFFFF) * 2 + record[at + 8 :]
    return record[:at] + struct.pack("!I", value) + record[at + 4 :]


def make_hostile(ground: NfsGround, bends) -> Callable[[], None]:
    """Bend some replies of a ground's server; return what makes it honest again."""
    server = ground.nfsd.server
    handle = server.handle
    replies = [0]

    def hostile(record, now_ns=0, client=0):
        answer = handle(record, now_ns, client)
        if answer is not None and answer.record:
            for after, kind, word, value in bends:
                if after == replies[0]:
                    answer.record = bent(answer.record, kind, word, value)
            replies[0] += 1
        return answer

    server.handle = hostile

    def honest():
        server.handle = handle

    return honest


def everything(ground: NfsGround) -> list:
    """Call everything that a mounted client has; return what came of it."""
    mount, file_io = ground.mount, ground.machine.memory.file_io
    answers: list = [mount.mkdir("sub"), mount.create("sub/f"), mount.symlink("link", "sub/f")]
    file = mount.open("link")
    answers.append(file)
    if not isinstance(file, int):
        nfsi = file.private_data.nfsi
        answers += [mount.write(file, 0, page_bytes(0) + page_bytes(1)), mount.read(file, 0, 2 * PAGE)]
        answers += [file_io.read(file, 0, 3 * PAGE), file_io.write(file, PAGE, page_bytes(1, 1)), file_io.fsync(file)]
        answers += [mount.getattr(nfsi), mount.stat(nfsi), mount.access(nfsi, 0x3F), mount.setattr(nfsi, size=PAGE)]
        answers += [mount.link(nfsi, "other"), mount.commit(file), file_io.read(file, 0, PAGE)]
        answers += [mount.rename("other", "third"), mount.remove("sub/f"), mount.close(file)]
    if mount.root is not None:
        answers += [mount.readdir(mount.root), mount.readdir(mount.root, plus=False)]
    answers += [mount.statfs(), mount.lookup("sub/../link"), mount.remove("third"), mount.rmdir("sub")]
    return answers
