"""The fast path: compiled threads that echo plain frames, and what lends them connections."""
