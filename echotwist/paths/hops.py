"""Who is on the way, by what they write into headers."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from echotwist.paths.head import pairsOf
from echotwist.paths.measured import Handshake, Measured


class Hop(NamedTuple):
    product: str
    evidence: str
    """The header that tells."""

    @property
    def products(self) -> list[str]:
        """Of which it is one. One header may be that of several: "Apache or Traefik"."""
        return self.product.split(" or ")


_RESPONSE = "to the client"
_REQUEST = "to the server"

_SIGNS = (
    # Product, the way on which it writes it, the header, and what its value begins with or has.
    ("nginx", _RESPONSE, "server", r"^(nginx|openresty)"),
    ("HAProxy", _RESPONSE, "server", r"^haproxy"),
    ("Apache", _RESPONSE, "server", r"^apache(/|$| )"),
    ("Caddy", _RESPONSE, "server|via", r"\bcaddy"),
    ("Envoy", _RESPONSE, "server", r"^(envoy|istio-envoy)"),
    ("Envoy", _RESPONSE, "x-envoy-.+", ""),
    ("Envoy", _REQUEST, "x-envoy-.+", ""),
    ("Varnish", _RESPONSE, "via|server", r"\bvarnish"),
    ("Varnish", _RESPONSE, "x-varnish", ""),
    ("Varnish", _REQUEST, "x-varnish", ""),
    ("Varnish", _REQUEST, "via", r"\bvarnish"),
    ("Squid", _RESPONSE, "via|server|x-cache", r"\bsquid"),
    ("Squid", _REQUEST, "via", r"\bsquid"),
    ("mitmproxy", _RESPONSE, "server|via", r"\bmitmproxy"),
    ("Apache or Traefik", _REQUEST, "x-forwarded-server", ""),
    ("AWS ALB", _RESPONSE, "server", r"^awselb"),
    ("AWS ALB", _REQUEST, "x-amzn-trace-id", ""),
    ("AWS API Gateway", _RESPONSE, "x-amz(n)?-(requestid|apigw-id)|apigw-requestid", ""),
    ("CloudFront", _RESPONSE, "via|server|x-cache", r"\bcloudfront"),
    ("CloudFront", _RESPONSE, "x-amz-cf-(id|pop)", ""),
    ("CloudFront", _REQUEST, "via", r"\bcloudfront"),
    ("CloudFront", _REQUEST, "x-amz-cf-id", ""),
    ("Cloudflare", _RESPONSE, "server", r"^cloudflare"),
    ("Cloudflare", _RESPONSE, "cf-ray", ""),
    ("Cloudflare", _REQUEST, "cf-ray|cf-connecting-ip", ""),
    ("Google load balancer", _RESPONSE, "via", r"\bgoogle"),
    ("Google load balancer", _REQUEST, "x-cloud-trace-context", ""),
    ("Google load balancer", _REQUEST, "via", r"\bgoogle"),
    ("Cloud Run", _RESPONSE, "server", r"^google frontend"),
    ("Azure Front Door", _RESPONSE, "x-azure-ref", ""),
    ("Azure Front Door", _REQUEST, "x-azure-ref", ""),
    ("Heroku", _RESPONSE, "via|server", r"\b(vegur|heroku)"),
    ("Fastly", _RESPONSE, "x-served-by", r"^cache-"),
)

_PATTERNS = [
    (product, way, re.compile(header, re.IGNORECASE), re.compile(value, re.IGNORECASE))
    for product, way, header, value in _SIGNS
]


_MOST = 200
"""Characters of a value that are shown."""


def hopsOf(measured: Measured) -> list[Hop]:
    """Those that show themselves, each once."""
    found: dict[str, str] = {}
    handshake = measured.get("handshake", {})
    for way, headers in (
        (_RESPONSE, _toClient(measured, handshake)),
        (_REQUEST, _toServer(handshake)),
    ):
        for name, value in headers:
            for product, where, header, pattern in _PATTERNS:
                if where == way and header.fullmatch(name) and pattern.search(value):
                    found.setdefault(product, f"{name}: {value[:_MOST]} ({way})")
    return [Hop(product, evidence) for product, evidence in found.items()]


def _toClient(measured: Measured, handshake: Handshake) -> Iterator[tuple[str, str]]:
    if "response" in handshake:
        yield from pairsOf(handshake["response"]["headers"])
    farEnd = measured.get("farEnd")
    if farEnd is not None and farEnd["server"]:
        yield "Server", farEnd["server"]
    changes = handshake.get("toClient")
    if changes is not None:
        yield from pairsOf(changes["added"])


def _toServer(handshake: Handshake) -> Iterator[tuple[str, str]]:
    changes = handshake.get("toServer")
    if changes is not None:
        yield from pairsOf(changes["added"])
    for refusal in (handshake.get("refused"), handshake.get("labRefused")):
        if refusal is not None and refusal["arrived"] is not None:
            yield from pairsOf(refusal["arrived"]["headers"])


def shownBy(product: str, hops: Iterable[Hop]) -> Hop | None:
    """The first of these that may be it."""
    return next((hop for hop in hops if product in hop.products), None)
