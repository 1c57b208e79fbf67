"""websockets, in threads."""

from clients.drivers.harness import SUBPROTOCOL, limited, runThreads
from websockets.sync.client import connect
from websockets.typing import Subprotocol


def ask(url: str) -> str:
    with connect(url) as connection:
        return str(connection.recv())


def echo(url: str) -> str:
    with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)]) as connection:
        with limited(connection.socket):
            for message in connection:
                connection.send(message)
    return f"closed with {connection.close_code}"


runThreads(ask, echo)
