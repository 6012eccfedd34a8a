"""Numbers of RFC 5531 and of the two programs."""

from kemu_nfs.sunrpc import rpc_const as c


def test_message_and_accept_codes():
    assert (c.RPC_VERSION, c.RPC_CALL, c.RPC_REPLY) == (2, 0, 1)
    assert (c.RPC_MSG_ACCEPTED, c.RPC_MSG_DENIED) == (0, 1)
    assert [c.RPC_SUCCESS, c.RPC_PROG_UNAVAIL, c.RPC_PROG_MISMATCH, c.RPC_PROC_UNAVAIL, c.RPC_GARBAGE_ARGS] == [0, 1, 2, 3, 4]


def test_programs_versions_and_ports():
    assert (c.NFS_PROGRAM, c.NFS_VERSION, c.NFS_PORT) == (100003, 3, 2049)
    assert (c.MOUNT_PROGRAM, c.MOUNT_VERSION) == (100005, 3)


def test_the_last_fragment_is_the_top_bit_of_the_mark():
    assert c.RPC_LAST_STREAM_FRAGMENT == 1 << 31
