"""What stands between a client and a server, and what it does to WebSockets."""
