"""`echotwist probe URL --http2` through real proxies: HAProxy takes a WebSocket over HTTP/2, and
nginx speaks HTTP/2 without RFC 8441."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.certificate import tlsEndpoint
from support.probe import eventually
from support.process import freePorts, needs, served

from echotwist.testing.logged import LoggedProcess

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  large_client_header_buffers 4 32k;
  server {{
    listen 127.0.0.1:{port} ssl {alpn};
    ssl_certificate {folder}/chain.pem; ssl_certificate_key {folder}/key.pem;
    location / {{
      proxy_pass http://127.0.0.1:{service};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
    }}
  }}
}}
"""

HAPROXY = """
global
  tune.bufsize 32768
defaults
  mode http
  timeout connect 10s
  timeout client 30s
  timeout server 30s
frontend front
  bind 127.0.0.1:{port} ssl crt {folder}/both.pem alpn {alpn}
  default_backend back
backend back
  server one 127.0.0.1:{service}
"""


@contextmanager
def proxied(folder: Path, name: str, service: int, alpn: str) -> Iterator[str]:
    """The URL of an echo behind this proxy."""
    program = needs(name, name)
    (port,) = freePorts(1)
    tlsEndpoint(folder)  # Writes its files.
    pems = [(folder / each).read_bytes() for each in ("chain.pem", "key.pem")]
    (folder / "both.pem").write_bytes(b"".join(pems))
    file = folder / "configuration"
    text = {"nginx": NGINX, "haproxy": HAPROXY}[name]
    file.write_text(text.format(folder=folder, port=port, service=service, alpn=alpn))
    arguments = {"nginx": ["-p", str(folder), "-c", str(file)], "haproxy": ["-f", str(file)]}[name]
    lines: list[str] = []
    process = LoggedProcess([program, *arguments], lines.append)

    def listens() -> bool:
        assert process.isRunning, lines
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        eventually(listens)
        yield f"wss://127.0.0.1:{port}/echo"
    finally:
        process.process.terminate()
        process.wait()


NONE = {"alpn": None, "connectProtocol": None, "status": None, "echoed": False}


@pytest.mark.parametrize(
    ("proxy", "alpn", "expected", "why"),
    [
        (
            "haproxy",
            "h2,http/1.1",
            {"alpn": "h2", "connectProtocol": True, "status": 200, "echoed": True},
            "",
        ),
        (
            "nginx",
            "http2",
            {**NONE, "alpn": "h2", "connectProtocol": False},
            "h2 without SETTINGS_ENABLE_CONNECT_PROTOCOL",
        ),
        ("nginx", "", NONE, "no connection for h2 alone: tls: "),
    ],
    ids=["HAProxy", "nginx with HTTP/2", "nginx without"],
)
def test_what_a_proxy_makes_of_a_websocket_over_http2(
    tmp_path: Path, proxy: str, alpn: str, expected: dict[str, Any], why: str
) -> None:
    with served() as service, proxied(tmp_path, proxy, service.port, alpn) as url:
        options = ["--http2", "--insecure", "--only=handshake", "--json"]
        told = subprocess.run(
            [sys.executable, "-m", "echotwist.probe", url, *options],
            capture_output=True,
            timeout=120,
        )
        assert (told.returncode, told.stderr) == (0, b"")
        report = json.loads(told.stdout)
    found = report["measured"]["handshake"]["http2"]
    said = found.pop("why")
    assert found == expected
    assert said.startswith(why)
    assert bool(said) == bool(why)
    # Upgrade works beside it.
    assert report["measured"]["handshake"]["response"]["line"].startswith("HTTP/1.1 101 ")
    rules = [each["rule"] for each in report["findings"] if "http2" in each["rule"]]
    assert rules == (["http2-refused"] if why else [])
