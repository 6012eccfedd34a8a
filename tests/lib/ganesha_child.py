"""Test helper, a program: swap to nfs-ganesha, for namespaces of its own (``unshare -m -n python ganesha_child.py WAY DIR``).

This build of ganesha exits at start unless something answers rpcbind's SET on /run/rpcbind.sock: a thread does, on a tmpfs that
only this mount namespace sees. It prints one JSON object.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import real_ground

GANESHA = "ganesha.nfsd"
NFS_PORT, MOUNT_PORT = 20490, 20480
SECONDS = 30
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
CONFIG = """
NFS_CORE_PARAM {{ Protocols = 3; NFS_Port = {nfs}; MNT_Port = {mount};
  Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }}
NFSv4 {{ Graceless = true; }}
EXPORT {{ Export_Id = 1; Path = {path}; Pseudo = /export; Access_Type = RW; Squash = No_Root_Squash; Protocols = 3;
  Transports = TCP; SecType = sys; FSAL {{ Name = VFS; }} }}
"""


def loopback_up() -> None:
    """Switch the namespace's loopback device on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack_from("H", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s24x", b"lo")), 16)[0]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


def be_rpcbind() -> None:
    """Answer every call on rpcbind's socket with TRUE."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("/run/rpcbind.sock")
    listener.listen(8)

    def serve(conn: socket.socket) -> None:
        stream = conn.makefile("rb")
        while len(head := stream.read(4)) == 4:
            call = stream.read(struct.unpack("!I", head)[0] & 0x7FFFFFFF)
            reply = call[:4] + struct.pack("!IIIIII", 1, 0, 0, 0, 0, 1)
            conn.sendall(struct.pack("!I", 0x80000000 | len(reply)) + reply)

    def accept() -> None:
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until something listens."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"ganesha does not listen on {port}")


def main(way: str, directory: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    Path("/run/ganesha").mkdir()
    loopback_up()
    be_rpcbind()
    export = directory / "export"
    export.mkdir()
    config = directory / "ganesha.conf"
    config.write_text(CONFIG.format(nfs=NFS_PORT, mount=MOUNT_PORT, path=export))
    words = [GANESHA, "-F", "-f", str(config), "-L", str(directory / "ganesha.log"), "-p", "/run/ganesha.pid"]
    with subprocess.Popen(words) as ganesha:
        try:
            wait_for(NFS_PORT, ganesha)
            wait_for(MOUNT_PORT, ganesha)
            url = f"nfs://127.0.0.1:{NFS_PORT}{export}?mountport={MOUNT_PORT}"
            sys.stdout.write(json.dumps(real_ground.story(url, way, export)))
        finally:
            ganesha.terminate()
            try:
                ganesha.wait(SECONDS)
            except subprocess.TimeoutExpired:
                ganesha.kill()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
