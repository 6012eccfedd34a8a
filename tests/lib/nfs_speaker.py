"""Test helper: a client that speaks NFS and MOUNT to a server in bytes."""

from __future__ import annotations

import struct

from kemu_nfs.sunrpc.nfs3_const import NFS_FILE_SYNC
from kemu_nfs.sunrpc.xdr import Packer, Unpacker


def words(*numbers):
    return struct.pack(f"!{len(numbers)}I", *numbers)


def opaque(data):
    out = Packer()
    out.pack_opaque(data)
    return out.bytes()


def auth_unix(uid=0, gid=0, gids=()):
    body = words(7) + opaque(b"client") + words(uid, gid, len(gids), *gids)
    return words(1, len(body)) + body + words(0, 0)


NO_SATTR = words(0, 0, 0, 0, 0, 0)


def sattr(mode=None, uid=None, gid=None, size=None, atime=None, mtime=None):
    parts = [words(0) if value is None else words(1, value) for value in (mode, uid, gid)]
    parts.append(words(0) if size is None else words(1) + struct.pack("!Q", size))
    parts.extend(words(0) if time is None else words(1) if time < 0 else words(2, time, 0) for time in (atime, mtime))
    return b"".join(parts)


def right_args(proc, folder, file, name=b"name"):
    """Give the arguments of a call as it should be."""
    name = opaque(name)
    where = opaque(folder)
    return {
        0: b"",
        2: opaque(file) + sattr(mode=0o600, size=5, mtime=3) + words(1, 2, 3),
        3: where + name,
        4: opaque(file) + words(63),
        6: opaque(file) + struct.pack("!QI", 0, 100),
        7: opaque(file) + struct.pack("!QII", 0, 8, 2) + opaque(b"12345678"),
        8: where + name + words(1) + sattr(mode=0o600, size=9),
        9: where + name + sattr(mode=0o700),
        10: where + name + sattr() + opaque(b"to"),
        11: where + name + words(4) + sattr() + words(1, 2),
        12: where + name,
        13: where + name,
        14: where + name + where + opaque(b"other"),
        15: opaque(file) + where + name,
        16: where + struct.pack("!Q8xI", 0, 4096),
        17: where + struct.pack("!Q8xII", 0, 4096, 4096),
        21: opaque(file) + struct.pack("!QI", 0, 0),
    }.get(proc, opaque(file))


class Fattr:
    """fattr3, decoded."""

    def __init__(self, args):
        self.type, self.mode, self.nlink, self.uid, self.gid = (args.unpack_uint() for _ in range(5))
        self.size, self.used = args.unpack_uhyper(), args.unpack_uhyper()
        self.rdev = args.unpack_uint(), args.unpack_uint()
        self.fsid, self.fileid = args.unpack_uhyper(), args.unpack_uhyper()
        self.atime, self.mtime, self.ctime = ((args.unpack_uint(), args.unpack_uint()) for _ in range(3))


class Results(Unpacker):
    """The results of a call, after the accepted head."""

    def attributes(self):
        return Fattr(self) if self.unpack_bool() else None

    def wcc(self):
        before = None
        if self.unpack_bool():
            before = self.unpack_uhyper(), (self.unpack_uint(), self.unpack_uint()), (self.unpack_uint(), self.unpack_uint())
        return before, self.attributes()


class Client:
    """Build calls, and read replies."""

    words = staticmethod(words)
    opaque = staticmethod(opaque)
    sattr = staticmethod(sattr)
    auth_unix = staticmethod(auth_unix)

    def __init__(self, server, uid=0, gid=0, gids=()):
        self.server = server
        self.auth = auth_unix(uid, gid, gids)
        self.xid = 1000
        self.cost_ns = 0
        self.address = 0x0A000001

    def record(self, proc, args=b"", *, prog=100003, vers=3, auth=None, xid=None):
        if xid is None:
            self.xid += 1
            xid = self.xid
        return words(xid, 0, 2, prog, vers, proc) + (auth or self.auth) + args

    def send(self, record):
        """Return the reply's bytes, finished; None if there is none."""
        answer = self.server.handle(record, 0, self.address)
        if answer is None:
            return None
        self.cost_ns = answer.cost_ns
        self.server.finish(answer)
        return answer.reply

    def call(self, proc, args=b"", **kwargs):
        """Make a call that is accepted, and return its results."""
        reply = self.send(self.record(proc, args, **kwargs))
        assert struct.unpack_from("!6I", reply)[1:] == (1, 0, 0, 0, 0)
        return Results(reply, 24)

    def status(self, proc, args=b"", **kwargs):
        return self.call(proc, args, **kwargs).unpack_uint()

    # the procedures that many tests want

    def mnt(self, path=b"/export"):
        results = self.call(1, opaque(path), prog=100005)
        assert results.unpack_uint() == 0
        return results.unpack_opaque()

    def lookup(self, folder, name):
        results = self.call(3, opaque(folder) + opaque(name))
        assert results.unpack_uint() == 0
        return results.unpack_opaque()

    def create(self, folder, name, attributes=None, how=0):
        results = self.call(
            8, opaque(folder) + opaque(name) + words(how) + (sattr(mode=0o644) if attributes is None else attributes)
        )
        assert results.unpack_uint() == 0
        assert results.unpack_bool()
        return results.unpack_opaque()

    def mkdir(self, folder, name, mode=0o755):
        results = self.call(9, opaque(folder) + opaque(name) + sattr(mode=mode))
        assert results.unpack_uint() == 0
        assert results.unpack_bool()
        return results.unpack_opaque()

    def getattr(self, handle):
        results = self.call(1, opaque(handle))
        assert results.unpack_uint() == 0
        return Fattr(results)

    @staticmethod
    def write_args(handle, offset, data, stable=NFS_FILE_SYNC):
        return opaque(handle) + struct.pack("!QII", offset, len(data), stable) + opaque(data)

    def write(self, handle, offset, data, stable=NFS_FILE_SYNC):
        """Return (count, committed, verifier)."""
        results = self.call(7, self.write_args(handle, offset, data, stable))
        assert results.unpack_uint() == 0
        results.wcc()
        answer = results.unpack_uint(), results.unpack_uint(), results.unpack_fopaque(8)
        results.done()
        return answer

    def read(self, handle, offset, count):
        """Return (data, eof)."""
        results = self.call(6, opaque(handle) + struct.pack("!QI", offset, count))
        assert results.unpack_uint() == 0
        results.attributes()
        size, eof = results.unpack_uint(), results.unpack_bool()
        data = results.unpack_opaque()
        results.done()
        assert len(data) == size
        return data, eof

    def readdir(self, folder, count=4096, cookie=0):
        """Return ([(cookie, name, fileid)], eof) of one READDIR."""
        results = self.call(16, opaque(folder) + struct.pack("!Q8xI", cookie, count))
        assert results.unpack_uint() == 0
        results.attributes()
        results.unpack_fopaque(8)
        found = []
        while results.unpack_bool():
            fileid, name = results.unpack_uhyper(), results.unpack_opaque()
            found.append((results.unpack_uhyper(), name, fileid))
        eof = results.unpack_bool()
        results.done()
        return found, eof

    def names(self, folder, count=4096):
        """Return all names of a directory, by as many READDIRs as it takes."""
        names, cookie = [], 0
        while True:
            found, eof = self.readdir(folder, count, cookie)
            names += [name for _, name, _ in found]
            if eof:
                return names
            cookie = found[-1][0]
