"""WebSocket: a connection from its handshake to its end, and the echo."""
