"""What the path between a client and a server does to WebSockets.

docs/probe.md has the command, and the use in tests.
"""
