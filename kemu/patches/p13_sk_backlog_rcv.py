"""net: wrap sk->sk_backlog_rcv()."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=13,
    name="sk_backlog_rcv",
    subject="net: wrap sk->sk_backlog_rcv()",
    part=2,
    message_id="20071030160913.278367000@chello.nl",
    needs=(),
    wants=("skb_processing",),
)
