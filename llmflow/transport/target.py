"""The target of a request: its parsed URL and proxy."""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from llmflow.errors import ConfigurationError, redact

if TYPE_CHECKING:
    import yarl


@functools.lru_cache(maxsize=256)
def target(url: str) -> tuple[yarl.URL, yarl.URL | None]:
    """Parse a URL, and find its proxy in the environment, once.

    Raises:
        ConfigurationError: the URL, or its proxy, cannot be used.
    """
    import yarl

    try:
        parts, parsed = urlsplit(url), yarl.URL(url)
    except ValueError as error:
        raise ConfigurationError(f"the URL cannot be called: {redact(str(error))}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.raw_host:
        raise ConfigurationError(
            f"the URL cannot be called: it must begin with https:// or http:// and a host; "
            f"got {redact(url)!r}"
        )
    proxy = _proxy(parts.scheme, parts.hostname or "", parts.netloc)
    return parsed, None if proxy is None else yarl.URL(proxy)


def _proxy(scheme: str, host: str, place: str) -> str | None:
    """Return the proxy that the environment names for a host; none on the way to oneself."""
    proxy = getproxies().get(scheme)
    if not proxy or _is_loopback(host) or proxy_bypass(host) or proxy_bypass(place):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        usable = urlsplit(proxy).scheme in {"http", "https"}
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"the proxy for {scheme} must be an address such as http://host:3128; "
            f"got {redact(proxy)!r}: set {scheme.upper()}_PROXY, or NO_PROXY={host}"
        )
    return proxy


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
