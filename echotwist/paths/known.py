"""What is documented of proxies and clouds: what cuts a WebSocket, and when.

From the vendors' pages and public reports, read in November 2026. Numbers change, and most can be
set: so this ranks what a pattern is consistent with, and proves nothing. docs/paths.md has what was
measured.
"""

from typing import NamedTuple

AGE = "age"

SERVER = "server"
CLIENT = "client"
EITHER = "either"
BOTH = "both"
"""Whose data keeps a connection: the server's alone, the client's alone, that of either, or only
that of both. A timer that counts one side alone is often told of, such as nginx's; nginx 1.22 and
HAProxy 2.6 count both."""


class Timeout(NamedTuple):
    product: str
    """As `hops` has it, so that a header speaks for it."""

    setting: str
    seconds: tuple[float, ...]
    """The defaults; empty if there is none."""

    kept: str
    """AGE, or who keeps it."""

    cure: str
    source: str
    isFixed: bool = False
    """Nobody can set it: after another time, it was something else."""


class SizeLimit(NamedTuple):
    product: str
    frame: int | None
    """Bytes of a frame."""

    message: int | None
    """Bytes of a message."""

    source: str


_NGINX = "nginx: `proxy_read_timeout 1h;` and `proxy_send_timeout 1h;` in the location"
_HAPROXY = "HAProxy: `timeout tunnel 1h` in the defaults or the backend"

TIMEOUTS = (
    Timeout(
        "nginx",
        "proxy_read_timeout, 60 s by default",
        (60,),
        EITHER,
        _NGINX,
        "nginx.org, WebSocket proxying; that data from the client counts, too: measured, 1.22",
    ),
    Timeout(
        "Varnish",
        "pipe_timeout, 60 s by default",
        (60,),
        EITHER,
        "Varnish: start it with `-p pipe_timeout=3600`",
        "varnishd's manual; measured, 7.1",
    ),
    Timeout(
        "Squid",
        "read_timeout, 15 min by default",
        (900,),
        EITHER,
        "Squid: `read_timeout 1 hour`",
        "Squid's configuration manual; measured, 5.7, with a shorter one",
    ),
    Timeout(
        "Apache",
        "ProxyTimeout, or else Timeout, 60 s by default",
        (60,),
        EITHER,
        "Apache: `ProxyTimeout 3600`",
        "Apache, mod_proxy",
    ),
    Timeout(
        "HAProxy",
        "timeout tunnel, or without it timeout client or timeout server",
        (),
        EITHER,
        _HAPROXY,
        "HAProxy's configuration manual, timeout tunnel",
    ),
    Timeout(
        "HAProxy",
        "timeout client and timeout server, with option independent-streams",
        (),
        BOTH,
        _HAPROXY,
        "HAProxy's configuration manual, option independent-streams",
    ),
    Timeout(
        "AWS ALB",
        "idle_timeout.timeout_seconds, 60 s by default",
        (60,),
        EITHER,
        "AWS: raise the idle timeout of the load balancer (up to 4000 s)",
        "AWS, load balancer attributes",
    ),
    Timeout(
        "Heroku",
        "the router's idle timeout, 55 s",
        (55,),
        EITHER,
        "Heroku: it cannot be set; send something each 30 s",
        "peerjs-server#68",
        isFixed=True,
    ),
    Timeout(
        "Cloudflare",
        "idle connections, 100 to 120 s",
        (100, 105, 110, 115, 120),
        EITHER,
        "Cloudflare: it cannot be set on most plans; send something each 30 s",
        "Cloudflare, connection limits; buildbot#4078",
        isFixed=True,
    ),
    Timeout(
        "OpenShift router",
        "haproxy timeout client or server, 30 s, or timeout tunnel, 1 h",
        (30, 3600),
        EITHER,
        "OpenShift: annotate the route, haproxy.router.openshift.io/timeout-tunnel",
        "OpenShift, route annotations",
    ),
    Timeout(
        "Azure load balancer",
        "idle timeout, 4 to 30 min",
        (240,),
        EITHER,
        "Azure: raise the idle timeout, or send something each 2 min",
        "convox, Azure",
    ),
    Timeout(
        "Envoy",
        "stream_idle_timeout, 5 min by default",
        (300,),
        EITHER,
        "Envoy: `stream_idle_timeout: 0s`, or the route's idle_timeout",
        "Envoy's FAQ",
    ),
    Timeout(
        "Azure Front Door",
        "idle WebSockets, 5 min",
        (300,),
        EITHER,
        "Azure: it cannot be set; send something each 2 min",
        "Azure Front Door, WebSocket",
        isFixed=True,
    ),
    Timeout(
        "AWS API Gateway",
        "idle connections, 10 min",
        (600,),
        EITHER,
        "AWS: it cannot be set; send something each 5 min",
        "API Gateway, WebSocket limits",
        isFixed=True,
    ),
    Timeout(
        "CloudFront",
        "idle WebSockets, 10 min",
        (600,),
        EITHER,
        "AWS: it cannot be set; send something each 5 min",
        "AWS re:Post",
        isFixed=True,
    ),
    Timeout(
        "Google load balancer",
        "the backend service's timeout, 30 s by default",
        (30,),
        AGE,
        "Google: raise the timeout of the backend service, for Kubernetes in a BackendConfig",
        "ingress-gce, WebSocket example",
    ),
    Timeout(
        "Cloud Run",
        "the request timeout, 5 min by default, up to 60",
        (300, 3600),
        AGE,
        "Google: raise the request timeout of the service",
        "Cloud Run, WebSockets",
    ),
    Timeout(
        "AWS API Gateway",
        "the age of a connection, 2 h",
        (7200,),
        AGE,
        "AWS: it cannot be set; have clients reconnect",
        "API Gateway, WebSocket limits",
        isFixed=True,
    ),
    Timeout(
        "Azure Front Door",
        "the age of a WebSocket, 4 h",
        (14_400,),
        AGE,
        "Azure: it cannot be set; have clients reconnect",
        "Azure Front Door, WebSocket",
        isFixed=True,
    ),
)

SIZES = (
    SizeLimit("AWS API Gateway", 32_768, 131_072, "API Gateway, WebSocket limits"),
    SizeLimit("APISIX", 65_535, None, "APISIX, websocket-proxy"),
    SizeLimit("Cloudflare Workers", None, 1_048_576, "tinybase#261"),
)
