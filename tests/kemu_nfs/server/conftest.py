"""A server with one export, and a client that speaks to it in bytes."""

from __future__ import annotations

import pytest

from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.rpc_server import NfsServer
from nfs_speaker import Client
from nfsd_ground import House


class Clock:
    """Time that moves when a test says so."""

    def __init__(self):
        self.ns = 0

    def __call__(self):
        return self.ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def server(clock):
    server = NfsServer(FileTree(clock))
    yield server
    server.check()


@pytest.fixture
def client(server):
    return Client(server)


@pytest.fixture
def user(server):
    """A client whose user is 500, of group 100 and 101."""
    return Client(server, 500, 100, (101,))


@pytest.fixture
def root(client):
    """The handle of /export."""
    return client.mnt()


@pytest.fixture
def swapfile(client, root):
    """The handle of an empty file."""
    return client.create(root, b"swapfile")


@pytest.fixture(scope="session")
def speaker():
    """Builds records for property tests, which may not use a fixture per function."""
    return Client(None)


@pytest.fixture
def house():
    """Build machines with a server; at the end their servers are checked."""
    houses = []

    def build(**kwargs):
        houses.append(House(**kwargs))
        return houses[-1]

    yield build
    for each in houses:
        each.nfsd.server.check()
        each.kernel.shutdown()
