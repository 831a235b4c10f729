"""Connecting to public addresses only.

The name is resolved once, every address that it has is checked, and the connection is made to a checked address itself
and not to the name, so that a second look-up cannot answer differently (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket

from noisebank.errors import RowFailure

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an IP address belongs to a host of the public internet.

    Of an address that carries an IPv4 address inside (mapped, 6to4, NAT64) that one decides; Teredo is not public.

    >>> is_public("8.8.8.8"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        nat64 = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
        address = address.ipv4_mapped or address.sixtofour or nat64 or address
    return address.is_global and not address.is_multicast


def connect(host: str, port: int, timeout: float, allow_private_hosts: bool) -> socket.socket:
    """A TCP connection to ``host``.

    Raises:
        RowFailure: ``private_address``, when any address of the host is private, loopback or link-local.
        OSError: the name does not resolve or no address answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        if not allow_private_hosts and not is_public(str(address[0])):
            raise RowFailure(
                "private_address",
                f"{host} is at {address[0]}, which is not public; fetch.allow_private_hosts permits it, "
                "and --retry-failures private_address tries again",
            )
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure
