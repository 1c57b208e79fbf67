"""Where connections come from: endpoints, TLS, the PROXY protocol, systemd's sockets."""
