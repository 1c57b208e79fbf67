"""Wrong on request: scripts of misbehaviour, what clients make of them, and what the wire did."""
