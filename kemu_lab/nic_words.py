"""The words of ``--nic``: how the client's NIC and its driver are built.

Interface: NIC_WORDS; nic_arguments(words) -> keyword arguments of NetStack; :exc:`ConfigError` names a word that is none.
"""

from __future__ import annotations

from typing import Any

from kemu.errors import ConfigError

#: 2.6.23's e1000 copied frames below this many bytes.
E1000_CB_LENGTH = 256

NIC_WORDS: dict[str, dict[str, Any]] = {
    "split": {"packet_split": True},
    "fixed": {"rx_buffers": "fixed"},
    "recycle": {"recycle": True},
    "copybreak": {"nic_options": {"copybreak": E1000_CB_LENGTH}},
    "software-checksums": {"rx_checksum": False, "nic_options": {"tx_checksum": False}},
}


def nic_arguments(words: str) -> dict[str, Any]:
    """Read ``words``, with commas between them; an empty string is the NIC that the series was written for."""
    arguments: dict[str, Any] = {"nic_options": {}}
    for word in words.split(",") if words else []:
        if word not in NIC_WORDS:
            raise ConfigError(f"--nic {word!r} cannot be used; its words are {', '.join(NIC_WORDS)}")
        for name, value in NIC_WORDS[word].items():
            if isinstance(value, dict):
                arguments[name].update(value)
            else:
                arguments[name] = value
    return arguments
