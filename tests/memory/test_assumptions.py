"""What the service takes for granted of the private parts of Twisted and Autobahn.

An upgrade of either that changes one of these fails here, and says where to look.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketAdapterProtocol
from autobahn.websocket.compress import PERMESSAGE_COMPRESSION_EXTENSION, PerMessageDeflate
from autobahn.websocket.protocol import WebSocketProtocol, WebSocketServerProtocol
from autobahn.websocket.utf8validator import Utf8Validator
from cryptography.hazmat.bindings import _rust
from OpenSSL import SSL
from support.memory import Client, Service
from support.secure import Peer, certified
from twisted.application.app import AppLogger
from twisted.internet import endpoints, tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOProtocol, _AggregateSmallWrites
from twisted.runner import procmon
from twisted.scripts._twistd_unix import UnixApplicationRunner, UnixAppLogger
from twisted.web.http import HTTPChannel

from echotwist.listen.endpoints import parseArguments
from echotwist.testing.frames import binary
from echotwist.testing.raw import KEY, request
from echotwist.websocket.connection import Connection
from echotwist.websocket.deflate import Deflate
from echotwist.wire.transport import unsent


def test_autobahn_fails_a_connection_through_one_method() -> None:
    """Connection._fail_connection."""
    assert list(inspect.signature(WebSocketProtocol._fail_connection).parameters) == [
        "self",
        "code",
        "reason",
    ]
    for method in ("_protocol_violation", "_invalid_payload", "_max_message_size_exceeded"):
        assert "self._fail_connection(" in inspect.getsource(getattr(WebSocketProtocol, method))
    source = inspect.getsource(WebSocketProtocol._protocol_violation)
    assert "if self.failByDrop:\n            return True" in source


def test_autobahn_closes_a_transport_through_one_method() -> None:
    """Connection.dropConnection."""
    sources = [inspect.getsource(kind) for kind in (WebSocketProtocol, WebSocketServerProtocol)]
    assert [source.count("self._closeConnection(") for source in sources] == [1, 0]
    source = inspect.getsource(WebSocketProtocol.dropConnection)
    assert "self.state = WebSocketProtocol.STATE_CLOSED" in source
    assert "self._closeConnection(abort)" in source


def test_autobahn_tells_of_the_end_of_a_connection_as_connection_does() -> None:
    """Connection.connectionLost."""
    assert "self._connectionLost(reason)" in inspect.getsource(
        WebSocketAdapterProtocol.connectionLost
    )
    source = inspect.getsource(WebSocketProtocol._connectionLost)
    assert source.count("self._onClose(") == 2
    assert "self.wasClean, self.remoteCloseCode, self.remoteCloseReason\n" in source


def test_autobahn_gives_a_connection_nothing_that_others_must_not_share(client: Client) -> None:
    """ConnectionFactory._beginning puts it on the class. What belongs to a message is set when
    that begins."""
    kind = type(client.protocol)
    mutable = {
        name
        for name, value in vars(kind).items()
        if not (value is None or isinstance(value, bool | int | float | bytes | str | tuple))
    }
    assert (
        mutable
        - {
            # Its statistics, which nobody reads, and the service's.
            *("trafficStats", "factory", "context", "connections", "fastPath", "keepalive"),
            # Options.
            *(
                "versions",
                "allowedOrigins",
                "allowedOriginsPatterns",
                "perMessageCompressionAccept",
            ),
        }
        == set()
    )
    source = inspect.getsource(WebSocketProtocol.onFrameBegin)
    for name in ("control_frame_data = []", "utf8validateLast = ("):
        assert f"self.{name}" in source


def test_autobahn_collects_messages_in_the_methods_that_are_replaced(client: Client) -> None:
    source = inspect.getsource(WebSocketProtocol.onFrameBegin)
    assert source.index("self._onMessageBegin(") < source.index("self._onMessageFrameBegin(")
    assert client.protocol.current_frame is None
    for name in ("onMessageFrameData", "onMessageFrameEnd", "onMessageEnd", "onMessageFrameBegin"):
        assert getattr(Connection, name) is not getattr(WebSocketProtocol, name)
        assert f"self.{name}(" in inspect.getsource(getattr(WebSocketAdapterProtocol, f"_{name}"))


def test_autobahn_judges_a_frame_in_steps_that_can_be_stopped(client: Client) -> None:
    """Connection._workOn and _inflate."""
    source = inspect.getsource(WebSocketProtocol.processData)
    # A frame is a header and then its payload, each a call; the end of the frame is the last step.
    assert source.count("self.onFrameBegin()\n") == 1
    assert source.index("fr = self.onFrameData(payload)") < source.index("fr = self.onFrameEnd()")
    after = source.partition("fr = self.onFrameEnd()")[2]
    assert [line.strip() for line in after.splitlines() if "#" not in line and line.strip()] == [
        "if fr is False:",
        "return False",
        "return len(self.data) > 0",
    ]
    source = inspect.getsource(WebSocketProtocol.onFrameData)
    # What is inflated in the second of two calls counts as if it had been inflated in the first.
    assert "self.message_data_total_length += uncompressedLen - compressedLen" in source
    assert "self.message_data_total_length - compressedLen" in source
    source = inspect.getsource(WebSocketProtocol.consumeData)
    assert "while self.processData() and self.state != WebSocketProtocol.STATE_CLOSED" in source


def test_line_receiver_looks_whether_it_is_paused_before_each_line() -> None:
    """Channel._waitForTurn."""
    source = inspect.getsource(LineReceiver.dataReceived)
    assert "while self._buffer and not self.paused:" in source


def test_a_handshake_keeps_no_client_text(service: Service) -> None:
    client = service.connect()
    client.send(request("/echo?secret", Host="secret", Origin="http://secret", Cookie="secret"))
    kept = vars(client.protocol)
    assert not [name for name, value in kept.items() if "secret" in str(value)]
    assert b"secret" not in client.received()
    assert service.echoes.webStatus is False
    assert service.echoes.versions == [13]


@pytest.mark.parametrize("subprotocol", [None, "Upgrade"])
@pytest.mark.parametrize(
    "extension",
    [
        "",
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=10",
        "permessage-deflate; server_max_window_bits=8",
    ],
)
@pytest.mark.parametrize("option", ["--no-compression", "--context-takeover", "--log-rate=1"])
def test_the_response_to_a_handshake_is_autobahns(
    subprotocol: str | None, extension: str, option: str
) -> None:
    """Connection.makeConnection, but for the spelling of `websocket`."""
    service = Service(option)
    client = service.connect()
    client.send(
        request(Sec_WebSocket_Protocol=subprotocol, Sec_WebSocket_Extensions=extension or None)
    )
    sent: list[bytes] = []
    judge: Any = WebSocketServerProtocol()
    judge.factory = service.echoes
    judge.perMessageCompressionAccept = service.echoes.perMessageCompressionAccept
    judge.openHandshakeTimeoutCall = judge._perMessageCompress = None
    judge.autoPingInterval, judge.trackedTimings, judge.data = 0, None, b""
    judge.log, judge.sendData, judge._onOpen = Connection.log, sent.append, lambda: None
    judge._wskey = KEY
    judge.websocket_protocols = [subprotocol]
    # `upgrade` leaves out what it declines, and what the client can do.
    known = "" if "=8" in extension else extension.replace("; client_max_window_bits", "")
    judge.websocket_extensions = judge._parseExtensionsHeader(known)
    judge.succeedHandshake(subprotocol)
    received = client.received()
    assert received == sent[0].replace(b"Upgrade: WebSocket", b"Upgrade: websocket")
    ours, its = client.protocol._perMessageCompress, judge._perMessageCompress
    assert (ours and vars(ours)) == (its and vars(its))


def test_autobahn_does_not_know_close_code_1014() -> None:
    """Once it does, connection.py no longer needs to add it."""
    assert WebSocketProtocol.CLOSE_STATUS_CODES_ALLOWED.count(1014) == 1


def test_autobahn_timers_are_off(service: Service) -> None:
    factory = service.echoes
    assert (factory.openHandshakeTimeout, factory.closeHandshakeTimeout) == (0, 0)
    assert (factory.autoPingInterval, factory.autoPingTimeout) == (0, 0)


def test_permessage_deflate_is_our_subclass() -> None:
    assert PERMESSAGE_COMPRESSION_EXTENSION["permessage-deflate"]["PMCE"] is Deflate
    for name in ("_compressor", "_decompressor"):
        assert f"self.{name} = None" in inspect.getsource(PerMessageDeflate.__init__)


def test_unsent_counts_bytes_the_kernel_did_not_take(client: Client) -> None:
    transport = client.transport
    assert unsent(transport) == 0
    client.socket.window = 0
    transport.write(b"x" * 300_000)
    assert unsent(transport) == 300_000
    client.socket.window = 7
    client.service.run()
    assert unsent(transport) == 300_000 - 7
    transport.write(b"yy")
    assert unsent(transport) == 300_000 - 5
    client.socket.window = float("inf")
    client.service.run()
    assert unsent(transport) == 0


def test_a_transport_pauses_its_producer_over_64_kib() -> None:
    assert FileDescriptor.bufferSize == 65536
    assert IHalfCloseableDescriptor.implementedBy(FileDescriptor)


def test_tls_transport_delegates_buffers_to_the_socket() -> None:
    """`linger` must not half-close below TLS; `unsent` must see the socket's buffer."""

    class Below:
        dataBuffer, offset, _tempDataLen = b"xyz", 1, 5

    tls: Any = TLSMemoryBIOProtocol.__new__(TLSMemoryBIOProtocol)
    tls.transport = Below()
    assert unsent(tls) == 7
    assert "loseWriteConnection" not in vars(TLSMemoryBIOProtocol)


def test_tls_ends_a_handshake_through_one_method() -> None:
    """tls.Secured: Twisted does not say in public why a handshake failed, or whether it is done."""
    assert TLSMemoryBIOProtocol._handshakeDone is False
    assert TLSMemoryBIOProtocol._reason is None
    source = inspect.getsource(TLSMemoryBIOProtocol._checkHandshakeStatus)
    assert "except Error:\n            self._tlsShutdownFinished(Failure())" in source
    assert "self._handshakeDone = True" in source
    source = inspect.getsource(TLSMemoryBIOProtocol._tlsShutdownFinished)
    assert "self._reason = reason" in source
    # It does not abort: data that was written before still goes out.
    assert source.rstrip().endswith("self.transport.loseConnection()")


def test_tls_reads_through_one_method() -> None:
    """wire.tls replaces it, and lends the connection of pyOpenSSL at its end. Nothing else in
    Twisted may touch that, but what writes and what ends."""
    source = inspect.getsource(TLSMemoryBIOProtocol._flushReceiveBIO)
    for line in (
        "while not self._lostTLSConnection:",
        "bytes = self._tlsConnection.recv(2**15)",
        "self._shutdownTLS()",
        "self._tlsShutdownFinished(None)",
        "self._tlsShutdownFinished(failure)",
        "if not self._aborted:",
        "ProtocolWrapper.dataReceived(self, bytes)",
    ):
        assert source.count(line) == 1
    assert source.rstrip().endswith("self._flushSendBIO()")
    source = inspect.getsource(TLSMemoryBIOProtocol.dataReceived)
    assert source.rstrip().endswith("self._flushReceiveBIO()")
    source = inspect.getsource(TLSMemoryBIOProtocol)
    assert source.count("._tlsConnection.recv(") == 1
    assert source.count("._tlsConnection.bio_read(") == 1


def test_tls_keeps_what_is_not_encrypted_yet_in_two_places() -> None:
    """wire.tls.LendableTls.isAtRest."""
    assert "self._appSendBuffer.append(" in inspect.getsource(TLSMemoryBIOProtocol._bufferedWrite)
    assert "self._buffer.append(" in inspect.getsource(_AggregateSmallWrites.write)
    source = inspect.getsource(_AggregateSmallWrites.flush)
    assert "if self._buffer:" in source
    assert "del self._buffer[:]" in source


def test_tls_gives_back_buffers_and_calls_nothing_in_python(tmp_path: Path) -> None:
    """A loop uses an SSL object without the GIL. Twisted's contexts release the 32 KiB that an idle
    connection would have; pyOpenSSL lets writes be partial, and their buffers move."""
    connection: Any = Peer(certified(tmp_path)).client.protocol.getHandle()
    context = connection.get_context()
    library: Any = _rust._openssl.lib
    for mode in (
        library.SSL_MODE_RELEASE_BUFFERS,
        library.SSL_MODE_ENABLE_PARTIAL_WRITE,
        library.SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER,
    ):
        assert library.SSL_CTX_set_mode(context._context, 0) & mode
    assert (context._info_callback, context._keylog_callback) == (None, None)
    assert getattr(connection, "_info_callback", None) is None


@pytest.mark.parametrize(
    "description",
    [
        "ssl:443",
        "ssl:443:privateKey=/a/key.pem:certKey=/a/chain.pem:interface=\\:\\:1",
        "ssl:privateKey=a=b\\=c:port=1:x",
        r"ssl:a\=b\:c:d\=e=f\\:g\\\:h",
        "ssl::=::a=:=b",
        "",
    ],
)
def test_endpoint_arguments_parse_as_in_twisted(description: str) -> None:
    """Twisted's own parser is private."""
    positional, named = parseArguments(description)
    assert (positional, dict(named)) == endpoints._parse(description)


def test_http_channel_calls_what_channel_replaces() -> None:
    assert "self.loseConnection()" in inspect.getsource(
        HTTPChannel._respondToBadRequestAndDisconnect
    )
    assert "self.headerReceived(" in inspect.getsource(HTTPChannel.lineReceived)
    # A refused header is the last line that is parsed: see Channel.loseConnection.
    source = inspect.getsource(HTTPChannel.lineReceived)
    assert "ok = self.headerReceived(self.__header)" in source


def test_twistd_logs_to_the_observer_of_the_application() -> None:
    """Daemon: twistd looks for it after --logger, and before it makes a log of its own."""
    source = inspect.getsource(AppLogger.start)
    assert (
        source.index("self._observerFactory()")
        < source.index("application.getComponent(logger.ILogObserver, None)")
        < source.index("self._getLogObserver()")
    )
    assert UnixAppLogger.start is AppLogger.start
    source = inspect.getsource(UnixAppLogger._getLogObserver)
    assert source.index("self._syslog:") < source.index('self._logfilename == "-"')
    assert 'self._logfilename = "twistd.log"' in source


def test_twistd_tells_the_parent_of_a_daemon_by_two_methods() -> None:
    """daemon._reportFailuresInFull: both are replaced."""
    source = inspect.getsource(UnixApplicationRunner.postApplication)
    assert "message = self._formatChildException(ex)" in source
    assert "untilConcludes(os.write, statusPipe, message)" in source
    source = inspect.getsource(UnixApplicationRunner.daemonize)
    assert "code = self._waitForStart(r)" in source
    assert "os._exit(code)" in source


def test_twisted_takes_an_inherited_unix_socket_for_its_own() -> None:
    """systemd._UnixPort works around this. If this test fails, that class can go."""
    start = inspect.getsource(unix.Port.startListening)
    for line in (
        "os.chmod(self._bindPath, self.mode)",
        "skt.listen(self.backlog)",
        # That class repeats these.
        "tcp._reservedFD.reserve()",
        "self.factory.doStart()",
        "skt = self._preexistingSocket",
        "self.fileno = self.socket.fileno",
        "self.numberAccepts = 100",
        "self.startReading()",
    ):
        assert line in start
    assert "_shouldShutdown" not in start
    assert "self._shouldShutdown = False" in inspect.getsource(tcp.Port.startListening)
    assert "os.unlink(self._bindPath)" in inspect.getsource(unix.Port.connectionLost)
    assert "unlink" not in inspect.getsource(tcp.Port.connectionLost)


def test_procmon_closes_the_output_of_a_worker_whose_line_is_too_long() -> None:
    """supervisor.Supervisor.startProcess: it replaces what calls loseConnection()."""
    source = inspect.getsource(procmon.LoggingProtocol.connectionMade)
    for output in ("_output", "_error"):
        assert f"self.{output} = LineLogger()" in source
        assert f"self.{output}.makeConnection(transport)" in source
    assert issubclass(procmon.LineLogger, LineReceiver)
    assert "transport.loseConnection()" in inspect.getsource(LineReceiver.lineLengthExceeded)
    assert not hasattr(procmon.transport, "loseConnection")


def test_procmon_installs_a_reactor() -> None:
    """tap imports the supervisor late for this. If this test fails, it no longer needs to."""
    assert "reactor as _reactor\n" in inspect.getsource(procmon)


def test_an_open_connection_keeps_little_of_its_own(way: str, service: Service) -> None:
    """ConnectionFactory._beginning has the rest, for all. Autobahn may give it more after an
    upgrade, and then this says what."""
    client = service.open()
    kept = vars(client.protocol)
    assert kept.keys() <= {
        *("address", "heard", "number", "opened", "state", "transport", "_shortcut", "_timer")
    }
    if way == "fast path":
        client.send(binary(b"x"))
        assert client.protocol.isLent
        assert sys.getsizeof(kept) <= 300


def test_autobahn_resets_a_validator_before_a_text() -> None:
    """Connection.utf8validator: a new one is as good."""
    source = inspect.getsource(WebSocketProtocol)
    assert source.count("self.utf8validator.validate(") == 1
    assert source.count("self.utf8validator.reset()") == 1
    assert source.count("self.utf8validator") == 3
    new, used = Utf8Validator(), Utf8Validator()
    used.validate(b"\xff")
    used.reset()
    assert new.validate(b"\xe2\x82") == used.validate(b"\xe2\x82") == (True, False, 2, 2)


def test_nobody_reads_autobahns_statistics() -> None:
    """Connection.trafficStats is one object for all."""
    source = inspect.getsource(WebSocketProtocol)
    assert source.count("self.trafficStats") == source.count("self.trafficStats = ") + len(
        re.findall(r"self\.trafficStats\.\w+ \+= ", source)
    )


def test_pyopenssl_makes_its_memory_bios_in_one_place() -> None:
    """wire.tls.renewBuffers does the same again."""
    made = inspect.getsource(SSL.Connection.__init__)
    assert "self._into_ssl = _lib.BIO_new(_lib.BIO_s_mem())" in made
    assert "self._from_ssl = _lib.BIO_new(_lib.BIO_s_mem())" in made
    assert "_lib.SSL_set_bio(self._ssl, self._into_ssl, self._from_ssl)" in made
    source = inspect.getsource(SSL.Connection)
    assert len(re.findall(r"self\._(?:into|from)_ssl = ", source)) == 4  # Two for a socket.
    # What it sets on them, it sets as the connection ends.
    assert source.count("BIO_set_mem_eof_return") == 1
    assert "BIO_set_mem_eof_return" in inspect.getsource(SSL.Connection.bio_shutdown)


def test_tls_writes_through_one_method() -> None:
    """LendableTls._write, which sees how much."""
    source = inspect.getsource(TLSMemoryBIOProtocol)
    assert source.count("self._tlsConnection.send(") == 1
    assert "self._tlsConnection.send(" in inspect.getsource(TLSMemoryBIOProtocol._write)
    assert TLSMemoryBIOProtocol._lostTLSConnection is False


def test_twisted_has_openssl_keep_no_buffers_and_no_sessions() -> None:
    """certificate.Certificate relies on it: 32 KB a connection, and a cache of 20,480 sessions."""
    context = CertificateOptions().getContext()
    assert context.set_mode(0) & SSL.MODE_RELEASE_BUFFERS
    assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF


def test_autobahn_knows_whether_a_message_came_compressed() -> None:
    """Echo.onMessage."""
    source = inspect.getsource(WebSocketProtocol.onFrameBegin)
    assert "self._isMessageCompressed = True" in source
    assert "self._isMessageCompressed = False" in source


def test_twisted_marks_a_transport_that_is_aborted() -> None:
    """wire.transport.isAtRest."""
    assert tcp.Connection._aborting is False
    assert "self._aborting = True" in inspect.getsource(tcp.Connection.abortConnection)
    assert unix.Server._aborting is False
