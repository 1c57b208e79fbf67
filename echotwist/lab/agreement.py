"""What the handshake agreed on (RFC 6455, 4.2.2): as the answer was written, whatever the server
would have said without a script."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypedDict

from echotwist.http.channel import elements
from echotwist.http.upgrade import deflateOffers
from echotwist.limits import LAB_TRACE_DECLINED
from echotwist.websocket.deflate import NAME


class Declined(TypedDict):
    offer: str
    """Such as `permessage-deflate; server_max_window_bits=7`, or a subprotocol."""

    why: str


class Agreement(TypedDict, total=False):
    subprotocol: str | None
    """As the response has it."""

    extensions: str | None
    """As the response has them."""

    declined: Sequence[Declined]
    """At most LAB_TRACE_DECLINED of the client's offers that the response does not have."""


class Offers:
    """What the client offers in a `request` that is vetted."""

    def __init__(self, request: bytes) -> None:
        self._subprotocols = valuesOf(request, b"sec-websocket-protocol")
        self._extensions = valuesOf(request, b"sec-websocket-extensions")

    def answered(self, response: bytes) -> Agreement:
        """What is agreed by this answer. Nothing is, and nothing is declined, if it is no 101."""
        if response.split(b" ", 2)[1:2] != [b"101"]:
            return {}
        subprotocols = valuesOf(response, b"sec-websocket-protocol")
        extensions = valuesOf(response, b"sec-websocket-extensions")
        declined = self._declined(elements(subprotocols), elements(extensions))
        return {
            "subprotocol": ", ".join(subprotocols) or None,
            "extensions": ", ".join(extensions) or None,
            "declined": list(islice(declined, LAB_TRACE_DECLINED)),
        }

    def _declined(self, subprotocols: list[str], extensions: list[str]) -> Iterator[Declined]:
        offers = elements(self._subprotocols)
        why = "the script answers otherwise"
        if subprotocols == offers[:1]:
            why = "the first one is agreed to: an echo speaks them all"
        for offer in offers:
            if offer not in subprotocols:
                yield Declined(offer=offer, why=why)
        names = {_nameOf(extension) for extension in extensions}
        left = set(names)
        for offer in elements(self._extensions):
            name = _nameOf(offer)
            if name == NAME and not deflateOffers([offer]):
                why = "it is malformed, or asks for what is not possible"
            elif name in left:
                left.remove(name)
                continue
            elif name in names:
                why = "another offer came first"
            else:
                why = "compression is off" if name == NAME else "it is not known here"
            yield Declined(offer=offer, why=why)


def _nameOf(extension: str) -> str:
    return extension.partition(";")[0].strip(" \t").lower()


def valuesOf(head: bytes, name: bytes) -> list[str]:
    """What a head of HTTP has in the headers of this name, which is in lower case. A script may end
    lines with LF alone."""
    lines = (line.partition(b":") for line in head.split(b"\n")[1:])
    return [
        value.strip(b" \t\r").decode("latin-1")
        for found, _, value in lines
        if found.strip().lower() == name
    ]
