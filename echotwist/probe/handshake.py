"""The handshake: every stage of it, and what became of its headers both ways."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from cryptography.x509 import Certificate
from OpenSSL import SSL
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IResolutionReceiver
from zope.interface import implementer

from echotwist.paths.comparison import compare
from echotwist.paths.head import Head, Headers, hidden, sizeOfHidden
from echotwist.paths.measured import Changes, Handshake, Limit, Refusal, Response, Tls
from echotwist.probe.connection import PATIENCE, Connection
from echotwist.probe.dialer import DEFLATE, Dialer, NotReached, Refused
from echotwist.probe.farend import FarEnd, requestOf, responseOf

SUBPROTOCOLS = "echotwist-probe, echotwist-probe-2"
"""What is offered at the lab, which agrees to the second: a hop that chooses by itself would take
the first."""

_AGREED = "echotwist-probe-2"

_COOKIES = (4_000, 8_000, 16_000)
"""Bytes. The service takes 16.5 KB of headers in all, and proxies add some."""

_QUERY = 8_000
"""Bytes."""

_SMALL = 10
"""Bytes."""

_BODY = 400
"""Characters of the body of a refusal that are kept."""


async def measure(near: Dialer, far: FarEnd, facts: Handshake) -> None:
    """Fill in `facts`, as far as the path lets it."""
    if not await _reach(near, facts):
        return
    await far.look()
    try:
        # Anew: a server has no patience with a connection that has said nothing for so long.
        upgrade = await near.upgrade(near.target.path, deflate=True)
    except NotReached as error:
        facts["notReached"] = {"stage": error.stage, "why": str(error)}
    except Refused as refused:
        facts["refused"] = await _refusal(near, far, refused)
        if refused.response is not None:
            facts["response"] = _shown(near, refused.response)
    else:
        facts["took"]["upgrade"] = upgrade.duration
        facts["response"] = _shown(near, upgrade.response)
        await upgrade.connection.close(1000)
        if far.isLab:
            await _compare(near, far, facts)
        await _limits(near, facts.setdefault("limits", []))


async def _reach(near: Dialer, facts: Handshake) -> bool:
    """Each stage below HTTP; whether there is a connection."""
    target = near.target
    facts["took"] = {}
    if target.proxy is None:
        began: float = near.reactor.seconds()
        facts["addresses"] = await _resolve(near.reactor, target.host)
        facts["took"]["dns"] = near.reactor.seconds() - began
    try:
        reached = await near.reach()
    except NotReached as error:
        facts["notReached"] = {"stage": error.stage, "why": str(error)}
        if error.stage == "tls":
            await _lookAtCertificate(near, facts, str(error))
        return False
    facts["address"] = reached.address
    facts["took"].update(reached.took)
    if target.isSecure:
        facts["tls"] = tlsOf(reached.connection, None)
    reached.connection.abort()
    return True


async def _resolve(reactor: Any, host: str) -> list[str]:
    """What the name resolves to; empty if to nothing."""
    found: list[str] = []
    done: Deferred[None] = Deferred()

    @implementer(IResolutionReceiver)
    class Receiver:
        def resolutionBegan(self, resolution: object) -> None:
            pass

        def addressResolved(self, address: Any) -> None:
            found.append(address.host)

        def resolutionComplete(self) -> None:
            done.callback(None)

    reactor.nameResolver.resolveHostName(Receiver(), host)
    with suppress(TimeoutError):
        await done.addTimeout(PATIENCE, reactor)
    return found


async def _lookAtCertificate(near: Dialer, facts: Handshake, distrust: str) -> None:
    """Whose certificate was not taken. Nothing is sent over that connection."""
    try:
        reached = await near.reach(isTrusting=True)
    except NotReached:
        return
    facts["address"] = reached.address
    facts["tls"] = tlsOf(reached.connection, distrust)
    reached.connection.abort()


def tlsOf(connection: Connection, distrust: str | None) -> Tls:
    """What was agreed on, and the certificate."""
    transport: Any = connection.transport
    handle: SSL.Connection = transport.getHandle()
    certificate = handle.get_peer_certificate(as_cryptography=True)
    assert certificate is not None  # A client has always got one.
    return {
        "version": handle.get_protocol_version_name(),
        "cipher": handle.get_cipher_name() or "",
        "alpn": handle.get_alpn_proto_negotiated().decode("latin-1") or None,
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "notAfter": certificate.not_valid_after_utc.isoformat(),
        "distrust": None if distrust is None else f"{distrust}{_more(certificate)}",
    }


def _more(certificate: Certificate) -> str:
    """What OpenSSL does not say of a certificate that it does not trust."""
    if certificate.not_valid_after_utc < datetime.now(UTC):
        return ": it has expired"
    return ": it has signed itself" if certificate.subject == certificate.issuer else ""


async def _refusal(near: Dialer, far: FarEnd, refused: Refused) -> Refusal:
    """What was answered, and what the server saw of a request like it."""
    response = refused.response
    location = None if response is None else response.get("location")
    arrived = await far.inspect() if far.isLab else None
    for pair in () if arrived is None else arrived["headers"]:
        pair[1] = _value(near, *pair)
    return {
        "why": _withoutGiven(near, str(refused)),
        "status": None if response is None else response.status or None,
        "location": None if location is None else _withoutGiven(near, location),
        "body": _withoutGiven(near, refused.body.decode("utf-8", "replace"))[:_BODY],
        "arrived": arrived,
    }


async def _compare(near: Dialer, far: FarEnd, facts: Handshake) -> None:
    """What both ends saw of one handshake."""
    path, trace = far.script(f"subprotocol={_AGREED}")
    offer: Headers = [("Sec-WebSocket-Protocol", SUBPROTOCOLS)]
    try:
        upgrade = await near.upgrade(path, deflate=True, more=offer)
    except NotReached as error:
        facts["labRefused"] = _plain(str(error))
        return
    except Refused as refused:
        facts["labRefused"] = await _refusal(near, far, refused)
        return
    await upgrade.connection.close(1000)
    seen = await far.trace(trace)
    request, response = requestOf(seen), responseOf(seen)
    if request is not None:
        facts["toServer"] = _discreet(near, compare(upgrade.request, request))
    if response is not None:
        facts["toClient"] = _discreet(near, compare(response, upgrade.response))
    for name, header, offered in (
        ("extensions", "sec-websocket-extensions", DEFLATE),
        ("subprotocols", "sec-websocket-protocol", SUBPROTOCOLS),
    ):
        facts[name] = {  # type: ignore[literal-required]
            "offered": offered,
            "arrived": None if request is None else request.get(header),
            "answered": None if response is None else response.get(header),
            "received": upgrade.response.get(header),
        }


def _plain(why: str) -> Refusal:
    return {"why": why, "status": None, "location": None, "body": "", "arrived": None}


async def _limits(near: Dialer, found: list[Limit]) -> None:
    """Handshakes with a cookie, and with a query, that are large."""
    target = near.target
    mark = "&" if "?" in target.path else "?"
    given = sum(len(f"{name}: {value}\r\n") for name, value in target.headers)
    # A client has one field of cookies (RFC 6265, 5.4).
    own = [f"{value}; " for name, value in target.headers if name.lower() == "cookie"]

    async def tryCookie(size: int) -> Limit:
        # With the user's own headers it is as much as the service takes without.
        cookie = f"probe={'c' * size}"[: max(size - given, 10)]
        return await _try(near, "cookie", size, target.path, [("Cookie", "".join([*own, cookie]))])

    async def tryQuery(size: int) -> Limit:
        return await _try(near, "query", size, f"{target.path}{mark}probe={'q' * size}", [])

    for attempt, sizes in ((tryCookie, _COOKIES), (tryQuery, (_QUERY,))):
        for size in sizes:
            limit = await attempt(size)
            # Who refuses a small one, too, refuses it for another reason: a limit of connections.
            if not limit["passed"] and not (await attempt(_SMALL))["passed"]:
                break
            found.append(limit)


async def _try(near: Dialer, what: str, size: int, path: str, more: Headers) -> Limit:
    try:
        upgrade = await near.upgrade(path, more=more)
    except NotReached as error:
        return {"what": what, "size": size, "answer": str(error), "passed": False}
    except Refused as refused:
        line = str(refused) if refused.response is None else refused.response.line
        line = _withoutGiven(near, line)
        return {"what": what, "size": size, "answer": line, "passed": False}
    await upgrade.connection.close(1000)
    return {"what": what, "size": size, "answer": upgrade.response.line, "passed": True}


def _shown(near: Dialer, head: Head) -> Response:
    headers = [[name, _value(near, name, value)] for name, value in head.headers]
    return {"line": head.line, "headers": headers}


def _discreet(near: Dialer, changes: Changes) -> Changes:
    """Without the values that `_value` hides."""
    for pair in (*changes["added"], *changes["removed"]):
        pair[1] = _value(near, *pair)
    for change in changes["rewritten"]:
        change["sent"] = _value(near, change["name"], change["sent"])
        change["arrived"] = _value(near, change["name"], change["arrived"])
    return changes


def _value(near: Dialer, name: str, value: str) -> str:
    """A header's, for a report, which others may get to see: not what the user gave, and no
    cookies."""
    given = {each.lower() for each, _ in near.target.headers} - _SHOWN
    isSecret = name.lower() in given or name.lower() in ("set-cookie", "cookie", "authorization")
    if isSecret:
        return hidden(len(value)) if sizeOfHidden(value) is None else value
    return _withoutGiven(near, value)


_SHOWN = {"origin", "user-agent"}
"""Headers that a user may give, and that are no secrets."""

_WORDS = re.compile(r"[\s;,=]+")

_SECRET = 6
"""Characters of the shortest word that is taken for one."""


def _withoutGiven(near: Dialer, text: str) -> str:
    """What somebody has answered, without the values that the user gave, whole or a word of them:
    there are servers that show a request as they got it."""
    given = [value for name, value in near.target.headers if name.lower() not in _SHOWN]
    secrets = {each for value in given for each in (value, *_WORDS.split(value))}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SECRET:
            text = text.replace(secret, hidden(len(secret)))
    return text
