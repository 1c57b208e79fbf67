"""socketify: uWebSockets in C++, called from Python.

`max_backpressure` is far above what the load has in flight: beyond it, uWebSockets drops what it
is told to send. Compression is off, or shared between the connections, which keeps no window.
"""

import arguments
from socketify import App, AppListenOptions, AppOptions, CompressOptions, OpCode, WebSocket

given = arguments.parse()


def echo(connection: WebSocket, message: bytes | str, opcode: OpCode) -> None:
    connection.send(message, opcode, given.deflate)


options = AppOptions(key_file_name=given.key, cert_file_name=given.cert) if given.cert else None
app = App(options)
app.ws(
    "/",
    {
        "compression": (
            CompressOptions.SHARED_COMPRESSOR if given.deflate else CompressOptions.DISABLED
        ),
        "max_payload_length": arguments.LIMIT,
        "max_backpressure": 64 * 1024 * 1024,
        "idle_timeout": 120,
        "message": echo,
    },
)
app.listen(
    AppListenOptions(port=given.port, host="127.0.0.1"), lambda _: print("ready", flush=True)
)
app.run()
