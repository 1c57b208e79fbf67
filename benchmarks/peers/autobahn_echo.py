"""Autobahn through WebSocketResource on Twisted's default reactor: what one writes first.

Nothing is configured but the limit, and compression where it is asked for. Its logs are off.
"""

import arguments
import txaio
from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.internet import reactor, ssl
from twisted.logger import globalLogBeginner
from twisted.web.server import Site


class Echo(WebSocketServerProtocol):
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


def accept(offers: list[PerMessageDeflateOffer]) -> PerMessageDeflateOfferAccept:
    return PerMessageDeflateOfferAccept(offers[0], request_no_context_takeover=True)


txaio.set_global_log_level("critical")
globalLogBeginner.beginLoggingTo([lambda event: None], redirectStandardIO=False)
given = arguments.parse()
factory = WebSocketServerFactory()
factory.protocol = Echo
factory.setProtocolOptions(maxMessagePayloadSize=arguments.LIMIT)
if given.deflate:
    factory.setProtocolOptions(perMessageCompressionAccept=accept)
factory.startFactory()
site = Site(WebSocketResource(factory))
site.noisy = False
if given.cert and given.key:
    context = ssl.DefaultOpenSSLContextFactory(given.key, given.cert, ssl.SSL.TLS_METHOD)
    reactor.listenSSL(given.port, site, context, interface="127.0.0.1")
else:
    reactor.listenTCP(given.port, site, interface="127.0.0.1")
reactor.callWhenRunning(print, "ready", flush=True)
reactor.run()
