"""printk and its rate limit."""

from __future__ import annotations

SEC = 1_000_000_000


def test_lines_are_kept_with_their_time_and_level(kernel):
    kernel.world.run(for_ns=1_500_000_000)
    kernel.printk("one\ntwo", "err")
    assert list(kernel.printk.buffer) == [(1_500_000_000, "err", "one"), (1_500_000_000, "err", "two")]
    assert kernel.printk.lines() == ["[    1.500000] one", "[    1.500000] two"]


def test_the_ring_is_bounded(kernel):
    for n in range(2000):
        kernel.printk(str(n))
    assert len(kernel.printk.buffer) == 1000
    assert kernel.printk.buffer[-1][2] == "1999"


def test_a_console_hears_every_line(kernel):
    heard = []
    kernel.printk.console = lambda _ns, _level, text: heard.append(text)
    kernel.printk("one\ntwo")
    assert heard == ["one", "two"]


def test_bursts_of_ten_then_one_line_in_five_seconds(kernel):
    said = [kernel.printk.ratelimited("k", "loud") for _ in range(15)]
    assert said == [True] * 10 + [False] * 5
    kernel.world.run(for_ns=5 * SEC)
    assert kernel.printk.ratelimited("k", "loud")
    assert not kernel.printk.ratelimited("k", "loud")
    assert "printk: 5 messages suppressed." in [text for _, _, text in kernel.printk.buffer]


def test_each_key_has_its_own_limit(kernel):
    for _ in range(20):
        kernel.printk.ratelimited("a", "loud")
    assert kernel.printk.ratelimited("b", "heard")


def test_in_a_world_event_the_time_is_the_worlds(kernel):
    kernel.world.post(3 * SEC, lambda _arg: kernel.printk("event"))
    kernel.world.run()
    assert kernel.printk.buffer[-1][0] == 3 * SEC
