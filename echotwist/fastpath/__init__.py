"""The data plane: what echoes plain frames in compiled threads, and lends them connections."""
