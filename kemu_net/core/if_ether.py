"""Numbers of Ethernet and of the device layer (2.6.23 include/linux/if_ether.h, netdevice.h, pkt_cls.h)."""

from __future__ import annotations

from typing import Final

ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
ETH_P_8021Q: Final = 0x8100
ETH_P_IPV6: Final = 0x86DD

NET_RX_SUCCESS: Final = 0
NET_RX_DROP: Final = 1
NETDEV_TX_OK: Final = 0
NETDEV_TX_BUSY: Final = 1
NET_XMIT_DROP: Final = 1

TC_ACT_OK: Final = 0
TC_ACT_SHOT: Final = 2
TC_ACT_STOLEN: Final = 4

#: What patch 23 processes although it lies in reserve memory; others need to be looked at first.
EMERGENCY_PROTOCOLS: Final = frozenset((ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q))
