"""What every floor above knows of a connection: its transport, its peer, what it buffers."""
