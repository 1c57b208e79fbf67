"""An operator's side of the service in memory: connections to --admin."""

from support.memory import Client, Service

ADMIN = "--admin=tcp:9090:interface=127.0.0.1"


class Operator(Client):
    """A connection to --admin."""

    def __init__(self, service: Service) -> None:
        admin = service.echo._specs[-1].site
        service.site, site = admin, service.site
        super().__init__(service)
        service.site = site


def get(service: Service, path: str, **headers: str) -> tuple[bytes, bytes]:
    client = Operator(service)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    head, _, body = client.received().partition(b"\r\n\r\n")
    return head, body
