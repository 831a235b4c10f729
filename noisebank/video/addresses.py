"""Connecting to public addresses only.

The name is resolved once, every address that it has is checked, and the connection is made to a checked address itself
and not to the name, so that a second look-up cannot answer differently (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket

from noisebank.errors import RowFailure

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an IP address belongs to a host of the public internet.

    Addresses that carry an IPv4 address inside (mapped, 6to4, NAT64, Teredo) are public only if that one is.

    >>> is_public("8.8.8.8"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    return all(inner.is_global and not inner.is_multicast for inner in _inside(address))


def _inside(address: Address) -> list[Address]:
    if not isinstance(address, ipaddress.IPv6Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    if address.sixtofour is not None:
        return [address.sixtofour]
    return [address, *(address.teredo or ())]


def connect(host: str, port: int, timeout: float, allow_private_hosts: bool) -> socket.socket:
    """A TCP connection to ``host``.

    Raises:
        RowFailure: ``private_address``, when any address of the host is private, loopback or link-local.
        OSError: the name does not resolve or no address answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, sockaddr in found:
        if not allow_private_hosts and not is_public(str(sockaddr[0])):
            raise RowFailure(
                "private_address",
                f"{host} is at {sockaddr[0]}, which is not public; fetch.allow_private_hosts permits it, "
                "and --retry-failures private_address tries again",
            )
    failure: OSError | None = None
    for family, type_, protocol, _, sockaddr in found:
        connection = socket.socket(family, type_, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(sockaddr)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure or OSError(f"{host} has no address")
