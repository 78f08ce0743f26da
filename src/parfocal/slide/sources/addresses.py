"""Network addresses that no slide is read from."""

import ipaddress

# Services that tell any program on a machine of a cloud its credentials, besides the link-local.
METADATA_ADDRESSES = ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")


def is_forbidden(address: str) -> bool:
    """Return whether an IP address is link-local, of a metadata service, or of no computer.

    >>> is_forbidden("169.254.169.254"), is_forbidden("::ffff:169.254.169.254")
    (True, True)
    >>> is_forbidden("127.0.0.1"), is_forbidden("example.org")
    (False, False)
    """
    try:
        found = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return False  # a name; its address is checked once the connection is made
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped if mapped is not None else found
    return (
        found.is_link_local
        or found.is_multicast
        or found.is_unspecified
        or any(found == ipaddress.ip_address(each) for each in METADATA_ADDRESSES)
    )
