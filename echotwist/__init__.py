"""A WebSocket echo service on Twisted and Autobahn that people can trust.

Read it in the order in which a message travels: `tap` (the options), `service`
(start, listen, drain), `listen` (ports, TLS), `http` (the URLs, the handshake),
`websocket` (the echo), `fastpath` (the echo, compiled). docs/architecture.md has a
picture, and every file.
"""

__version__ = "0.1.0"
