"""Mount options: what nfs(5) spells, what it becomes, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.kernel.timer import HZ
from kemu_nfs.mount_options import MountOptions, mount_options, timeouts, xprt_timeout
from kemu_nfs.sunrpc.xprt import TCP_TIMEOUT, UDP_TIMEOUT


def test_nothing_is_the_defaults():
    assert mount_options("") == MountOptions() == mount_options("rw,hard,intr,nolock,cto,ac,async,vers=3,sec=sys,proto=tcp")


def test_a_line_of_fstab():
    options = mount_options("ro,soft,udp,rsize=8192,wsize=4096,timeo=14,retrans=3,acdirmin=5,port=2050,mountport=2051")
    assert options == MountOptions(8192, 4096, 14, 3, acdirmin=5, soft=True, read_only=True, proto="udp", port=2050, mountport=2051)


def test_the_last_word_counts():
    assert mount_options("ro,rw,soft,hard,udp,proto=tcp,rsize=1,rsize=2") == MountOptions(rsize=2)


def test_actimeo_sets_all_four():
    assert timeouts(mount_options("actimeo=7")) == timeouts(MountOptions(0, 0, 0, 0, 7, 7, 7, 7))
    assert timeouts(mount_options("actimeo=7")).acdirmax == 7 * HZ


def test_noac_is_no_time_at_all():
    times = timeouts(mount_options("noac,acregmin=5"))
    assert (times.acregmin, times.acregmax, times.acdirmin, times.acdirmax) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "rsize",
        "rsize=",
        "rsize=-1",
        "rsize=8k",
        "rsize=99999999999999999999999",
        "rsize=\u0663",
        "vers=4",
        "nfsvers=2",
        "sec=krb5",
        "proto=rdma",
        "port=0",
        "port=65536",
        "acregmin=61",
        "acdirmin=40,acdirmax=39",
        "actimeo=4294967296",
        "rw=1",
        "=",
        "timeo=1.5",
    ],
)
def test_what_cannot_be_is_one_sentence_that_names_it(text):
    with pytest.raises(ConfigError) as error:
        mount_options(text)
    message = str(error.value)
    assert "\n" not in message
    assert any(word.partition("=")[0] in message for word in text.split(","))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_no_text_raises_anything_else(text):
    try:
        mount_options(text)
    except ConfigError:
        pass


def test_without_timeo_the_transports_own_times_stand():
    assert xprt_timeout(mount_options("")) == TCP_TIMEOUT
    assert xprt_timeout(mount_options("udp")) == UDP_TIMEOUT


def test_timeo_is_in_tenths_and_grows_as_the_protocol_does():
    tcp = xprt_timeout(mount_options("timeo=50,retrans=4"))
    assert (tcp.initval, tcp.increment, tcp.retries, tcp.exponential) == (5 * HZ, 5 * HZ, 4, False)
    udp = xprt_timeout(mount_options("udp,timeo=20"))
    assert (udp.initval, udp.increment, udp.retries, udp.exponential) == (2 * HZ, 0, 5, True)
    assert xprt_timeout(mount_options("timeo=100000")).initval == 600 * HZ
    assert xprt_timeout(mount_options("udp,timeo=100000")).initval == 60 * HZ


def test_the_line_of_proc_mounts():
    options = mount_options("soft,timeo=70,acregmin=1")
    assert options.text(8192, 4096, xprt_timeout(options), "10.0.0.2") == (
        "rw,vers=3,rsize=8192,wsize=4096,acregmin=1,soft,proto=tcp,timeo=70,retrans=2,sec=sys,addr=10.0.0.2"
    )
    noac = mount_options("ro,noac")
    assert noac.text(1024, 1024, xprt_timeout(noac), "10.0.0.2").startswith("ro,sync,vers=3,rsize=1024,wsize=1024,acregmin=0,")
