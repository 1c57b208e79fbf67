"""websocket-client. It has no compression."""

from clients.drivers.harness import LIMIT, SUBPROTOCOL, limited, runThreads
from websocket import ABNF, create_connection


def ask(url: str) -> str:
    connection = create_connection(url, timeout=LIMIT)
    try:
        return str(connection.recv())
    finally:
        connection.close()


def echo(url: str) -> str:
    connection = create_connection(url, timeout=LIMIT, subprotocols=[SUBPROTOCOL])
    try:
        with limited(connection.sock):
            while True:
                opcode, payload = connection.recv_data()
                if opcode == ABNF.OPCODE_CLOSE:
                    code = int.from_bytes(payload[:2], "big") if payload else "no code"
                    return f"closed with {code}"
                connection.send(payload, opcode)
    finally:
        connection.shutdown()


runThreads(ask, echo)
