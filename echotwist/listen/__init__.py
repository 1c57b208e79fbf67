"""Where connections come from: ports, endpoints, TLS, the PROXY protocol, systemd's sockets."""
