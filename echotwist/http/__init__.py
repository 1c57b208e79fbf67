"""HTTP: from the first byte of a connection to the upgrade, or to an answer."""
