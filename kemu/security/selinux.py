"""SELinux as far as the packet path goes: labels, a security server, and the hook of sk_filter() (2.6.23 security/selinux/hooks.c).

Interface
    * :class:`Selinux`: ``security_sock_rcv_skb(sk, skb)`` 0 or -EACCES; ``avc``; ``server``; ``sock_label`` and ``packet_label``.
    * :class:`PolicyServer`: ``load_policy(policy)``, ``security_compute_av(...)``, ``enforcing``.

Rules of this file
    * A policy is a function of (subject, object, class) that gives the mask of allowed permissions, always the same for the same
      question. None is the state before a policy is loaded: what is requested is allowed.
    * Labels are functions too: of a socket, and of a packet (the secmark that a firewall rule would have left on it).
    * A machine has SELinux if it was booted with it (MachineConfig.selinux); otherwise nothing of it is on any path.
    * Left out: contexts, the policy language, file system and process hooks, labelled networking (only secmark), selinuxfs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kemu.security.avc import Avc, AvDecision

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub

SECINITSID_KERNEL: Final = 1
SECINITSID_UNLABELED: Final = 3
SECCLASS_PACKET: Final = 57
PACKET__RECV: Final = 0x2

#: (ssid, tsid, tclass) -> the permissions that are allowed.
Policy = Callable[[int, int, int], int]


class PolicyServer:
    """The security server: a policy and its number (2.6.23 security/selinux/ss/services.c).

    :ivar enforcing: a denial counts; otherwise it is only reported.
    :ivar seqno: ``latest_granting``, the number of the policy.
    """

    def __init__(self, policy: Policy | None = None, *, enforcing: bool = True) -> None:
        self.policy = policy
        self.enforcing = enforcing
        self.seqno = 0 if policy is None else 1

    def security_compute_av(self, ssid: int, tsid: int, tclass: int, requested: int) -> AvDecision:
        """Decide (security_compute_av()). Before a policy is loaded nothing but what is requested is decided, and it is allowed."""
        if self.policy is None:
            return AvDecision(requested, requested, seqno=self.seqno)
        return AvDecision(self.policy(ssid, tsid, tclass) & 0xFFFFFFFF, 0xFFFFFFFF, seqno=self.seqno)


class Selinux:
    """The security module of one machine."""

    def __init__(self, kernel: Kernel, slub: Slub, policy: Policy | None = None) -> None:
        self.server = PolicyServer(policy)
        self.avc = Avc(kernel, slub, self.server)
        self.sock_label: Callable[[Any], int] = _of_the_kernel
        self.packet_label: Callable[[Any], int] = _unlabeled

    def security_sock_rcv_skb(self, sk: Any, skb: Any) -> int:
        """Tell whether the socket may receive the packet (selinux_socket_sock_rcv_skb()): 0 or -EACCES."""
        return self.avc.avc_has_perm(self.sock_label(sk), self.packet_label(skb), SECCLASS_PACKET, PACKET__RECV)

    def load_policy(self, policy: Policy) -> None:
        """Take another policy; what the cache remembers is forgotten (security_load_policy())."""
        self.server.policy = policy
        self.server.seqno += 1
        self.avc.avc_ss_reset(self.server.seqno)

    def check(self) -> None:
        """Assert the cache's invariants."""
        self.avc.check()


def _of_the_kernel(_sk: object) -> int:
    return SECINITSID_KERNEL


def _unlabeled(_skb: object) -> int:
    return SECINITSID_UNLABELED
