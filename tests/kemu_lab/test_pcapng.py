"""Blocks of a pcapng file."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from captures import needs_tshark, read_pcapng, tool, tshark
from kemu_lab.pcapng import INBOUND, OUTBOUND, PcapngWriter

MAC = bytes.fromhex("020000000001")


def test_an_interface_has_a_name_an_address_and_counts_nanoseconds(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        assert PcapngWriter(file).interface("client", "eth0 of it", MAC) == 0
    ((interface,), packets) = read_pcapng(path)
    assert interface == {2: b"client", 3: b"eth0 of it", 6: MAC, 9: b"\x09"}
    assert packets == []


@given(
    packets=st.lists(
        st.tuples(
            st.integers(0, 2**64 - 1), st.binary(max_size=70), st.sampled_from([INBOUND, OUTBOUND]), st.lists(st.text(max_size=9))
        )
    )
)
def test_what_is_written_is_read(tmp_path_factory, packets):
    path = tmp_path_factory.mktemp("x") / "x"
    with path.open("wb") as file:
        writer = PcapngWriter(file)
        writer.interface("a", "b", MAC)
        for packet in packets:
            writer.packet(0, *packet)
    assert [(each.time, each.frame, each.direction, each.comments) for each in read_pcapng(path)[1]] == packets


def test_a_comment_is_never_longer_than_its_length_can_tell(tmp_path):
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.packet(writer.interface("a", "b", MAC), 1, b"x" * 60, INBOUND, ["c" * 100_000])
    (tmp_path / "x").write_bytes(file.getvalue())
    assert read_pcapng(tmp_path / "x")[1][0].comments == ["c" * 65535]


@needs_tshark
def test_tshark_reads_time_name_direction_and_all_comments(tmp_path):
    path = tmp_path / "x.pcapng"
    with path.open("wb") as file:
        writer = PcapngWriter(file)
        for name in ("client", "server"):
            writer.interface(name, name, MAC)
        writer.packet(1, 1_234_567_891, bytes(60), OUTBOUND, ["one, ä", "two"])
    fields = ["frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "frame.comment"]
    assert tshark(path, fields=fields) == ["1.234567891\tserver\t0x00000002\tone, ä,two"]
    assert "Number of interfaces in file: 2" in tool("capinfos", path)
