"""Clients of all kinds, that know what must come back to them."""

import contextlib
import random
import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from echotwist.testing.frames import BINARY, CONTINUATION, PING, PONG, TEXT, close, frame, take
from echotwist.testing.raw import RawClient, request
from support.certificate import unverified
from support.deflate import OFFER, deflated, readable

TIMEOUT = 30
"""Seconds for anything to happen; a client that waits for longer has failed."""


REQUEST = request()[:-2]
"""Lacks its end, so that more headers may come."""


class Gone(Exception):
    """The service has ended the connection."""


ENDED = (Gone, ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""How a client notices that. Any other error of TLS is one."""


class Peer:
    """One connection; all that comes back on it is compared with what was sent.

    `isHarried`: the service may end it at any time; else it must not. `version` is that of TLS.
    """

    def __init__(
        self,
        port: int,
        isTls: bool = False,
        isDeflated: bool = False,
        isHarried: bool = False,
        version: ssl.TLSVersion | None = None,
    ) -> None:
        client = RawClient(
            f"ws{'s' * isTls}://127.0.0.1:{port}/echo",
            upgrade=False,
            context=unverified(version) if isTls else None,
            timeout=TIMEOUT,
        )
        self.socket = client.socket
        self.isDeflated, self.isHarried = isDeflated, isHarried
        self.due: deque[tuple[int, bytes]] = deque()
        self.pongs = 0
        self.codes: list[int] = []
        self.count: Counter[str] = Counter()
        client.send(request(Sec_WebSocket_Extensions=OFFER if isDeflated else None))
        head = client.until(b"\r\n\r\n")
        if isHarried and head.startswith(b"HTTP/1.1 503 "):
            raise Gone  # It drains.
        assert head.startswith(b"HTTP/1.1 101 "), head
        self._rest = bytearray(client.rest)
        self.socket.setblocking(False)

    def _some(self, size: int = 2**18) -> bytes:
        data = self.socket.recv(size)
        if not data:
            raise Gone
        return data

    def message(
        self,
        opcode: int,
        payload: bytes,
        pieces: int = 1,
        pings: bool = False,
        encode: Callable[[bytes], bytes] | None = deflated,
    ) -> bytes:
        """The frames of a message that is due from now on, with `pings` between them. `encode`
        compresses it, on a connection that does; None, and it is sent as it is."""
        self.due.append((opcode, payload))
        if not self.isDeflated:
            encode = None
        if encode is not None:
            payload = encode(payload)
        step = max(len(payload) // pieces, 1)
        cuts = [n * step for n in range(pieces)] + [len(payload)]
        self.pongs += pings * (pieces - 1)
        return (frame(PING, b"between") if pings else b"").join(
            frame(
                CONTINUATION if n else opcode,
                payload[cuts[n] : cuts[n + 1]],
                fin=n == pieces - 1,
                rsv=4 if encode is not None and n == 0 else 0,
            )
            for n in range(pieces)
        )

    def send(self, data: bytes, isReading: bool = True) -> None:
        """Send all of it. Without `isReading`, until the service takes no more."""
        view = memoryview(data)
        while view:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                view = view[self.socket.send(view[: 2**18]) :]
            if isReading:
                while self._receive():
                    pass
            if view and not self._isReady(isReading, True, TIMEOUT if isReading else 1):
                assert not isReading, f"nothing was taken for {TIMEOUT} s"
                isReading = True

    def settle(self, size: int = 2**18) -> None:
        """Read, so many bytes at a time, until nothing is due."""
        while self.due or self.pongs:
            if not self._receive(size):
                self._wait()

    def end(self) -> None:
        """Close in order; everything comes before."""
        self.endsWith(close(1000, "bye"), 1000)
        assert not self.due, len(self.due)

    def endsWith(self, data: bytes, code: int) -> None:
        """Send this, and be answered a close with this code."""
        with contextlib.suppress(Gone):
            self.send(data)
            while True:
                if not self._receive():
                    self._wait()
        assert self.isHarried or self.codes == [code], (code, self.codes)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _wait(self) -> None:
        assert self._isReady(True, False, TIMEOUT), f"nothing in {TIMEOUT} s; due: {len(self.due)}"

    def _isReady(self, isReading: bool, isWriting: bool, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN * isReading | select.POLLOUT * isWriting)
        return bool(poll.poll(seconds * 1000))

    def _receive(self, size: int = 2**18) -> bool:
        try:
            self._rest += self._some(size)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        while self._take():
            pass
        return True

    def _take(self) -> bool:
        """Look at the next frame, if all of it is there."""
        if (taken := take(self._rest)) is None:
            return False
        found, end = taken
        del self._rest[:end]
        payload = found.payload
        match found.opcode:
            case 9:  # PING
                self.count["pings"] += 1  # A client that is sending need not answer.
            case 10:  # PONG
                self.pongs -= 1
            case 8:  # CLOSE
                self.codes.append(int.from_bytes(payload[:2], "big"))
            case opcode:
                assert found.fin
                assert not found.rsv or self.isDeflated
                payload = readable(found).payload
                assert (opcode, payload) == self.due.popleft(), "another message came back"
                self.count["messages"] += 1
                self.count["bytes"] += len(payload)
        return True


def small(peer: Peer, random: random.Random) -> None:
    for _ in range(random.randrange(1, 30)):
        many = random.randrange(1, 50)
        texts = ["aé€🙂"[random.randrange(4)] * random.randrange(200) for _ in range(many)]
        data = b"".join(peer.message(TEXT, text.encode()) for text in texts)
        cut = random.randrange(len(data))
        peer.send(data[:cut])
        peer.send(data[cut:])
        if random.random() < 0.5:
            peer.settle()
    peer.settle()


def large(peer: Peer, random: random.Random) -> None:
    payload = random.randbytes(random.choice([65_535, 65_537, 300_000, 4 * 2**20]))
    peer.send(peer.message(BINARY, payload))
    peer.settle()


def fragments(peer: Peer, random: random.Random) -> None:
    """Few or many, of one byte or of thousands, cut inside characters, with pings between."""
    for _ in range(random.randrange(1, 20)):
        payload = ("aé€🙂"[random.randrange(4)] * random.choice([1, 7, 300, 40_000])).encode()
        pieces = random.choice([2, 3, 40, min(len(payload), 1000)])
        peer.send(peer.message(TEXT, payload, pieces, random.random() < 0.5))
        peer.send(peer.message(TEXT, b"one"))
        if random.random() < 0.5:
            peer.settle()
    peer.settle()


def compressed(peer: Peer, random: random.Random) -> None:
    """In each way that a compressor has; on a connection without compression as they are."""

    def encode(payload: bytes) -> bytes:
        return deflated(
            payload,
            random.randrange(10),
            bits=random.randrange(9, 16),
            memory=random.randrange(1, 10),
            strategy=random.randrange(5),
            flushes=random.sample(range(len(payload) + 1), random.choice([0, 0, 1])),
            isFinal=random.random() < 0.1,
        )

    for _ in range(random.randrange(1, 20)):
        opcode, payload = random.choice(
            [
                (TEXT, b""),
                (TEXT, "größer, 大きい, 🙂 ".encode() * random.randrange(50)),
                (TEXT, b'{"id": 1, "name": "echo"}' * random.choice([40, 2600])),
                (BINARY, random.randbytes(random.choice([1, 1000, 66_000]))),
                (BINARY, bytes(random.choice([65_535, 65_537, 2 * 2**20]))),
            ]
        )
        pieces = random.choice([1, 1, 1, 2, 5])
        peer.send(
            peer.message(
                opcode,
                payload,
                pieces,
                random.random() < 0.2,
                None if random.random() < 0.2 else encode,
            )
        )
        if random.random() < 0.3:
            peer.settle()
    peer.settle()


def pings(peer: Peer, random: random.Random) -> None:
    for _ in range(random.randrange(1, 30)):
        peer.pongs += 1
        peer.send(frame(PING, b"p") + frame(PONG, b"nobody asked") + peer.message(BINARY, b"x"))
    peer.settle()


def slow(peer: Peer, random: random.Random) -> None:
    """Sends what the service cannot keep, and only then begins to read, a little at a time."""
    data = b"".join(peer.message(BINARY, bytes([n]) * 40_000) for n in range(12))
    peer.send(data, isReading=False)
    peer.settle(size=random.choice([4096, 30_000]))


Open = Callable[..., Peer]

TALKS = [small, small, large, fragments, compressed, pings, slow]


def endOrderly(peer: Peer, random: random.Random) -> None:
    peer.end()


def endHalf(peer: Peer, random: random.Random) -> None:
    """Leave inside a frame, small or streaming, or a message, by FIN or by a reset."""
    whole = random.choice(
        [
            frame(BINARY, bytes(random.choice([10, 1000, 200_000]))),
            frame(TEXT, b"half", fin=False) + frame(CONTINUATION, b" of it", fin=False),
            peer.message(TEXT, b"half of it" * random.choice([1, 10_000]), pieces=4),
        ]
    )
    peer.send(whole[: random.randrange(1, len(whole))])
    if random.random() < 0.5:
        peer.reset()


def endReset(peer: Peer, random: random.Random) -> None:
    """With echoes on their way."""
    peer.send(frame(BINARY, bytes(30_000)) * 3, isReading=False)
    peer.reset()


def endMalformed(peer: Peer, random: random.Random) -> None:
    begun = frame(TEXT, b"\xc3", fin=False)
    faults = [
        (frame(TEXT, b"x", rsv=2), 1002),
        (frame(3, b"x"), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (b"\x82\xff\x7f" + bytes(11), 1009),
        (begun + frame(CONTINUATION, b"x"), 1007),
        (begun + frame(CONTINUATION, b""), 1007),
        (begun + frame(TEXT, b"x"), 1002),
        (begun + frame(CONTINUATION, b"\xa9", rsv=4), 1002),
    ]
    if peer.isDeflated:
        faults += [
            (frame(BINARY, b"\xff\xff\xff", rsv=4), 1007),
            (frame(BINARY, deflated(bytes(1000))[:3], rsv=4), 1007),
            (frame(TEXT, deflated(b"\xff"), rsv=4), 1007),
            (frame(BINARY, deflated(bytes(17 * 2**20)), rsv=4), 1009),
            (frame(PING, b"x", rsv=4), 1002),
        ]
    peer.endsWith(*random.choice(faults))


ENDS = [endOrderly, endOrderly, endHalf, endReset, endMalformed]


def converse(open: Open, random: random.Random, isHarried: bool) -> Counter[str]:
    """One connection from its beginning to its end."""
    count: Counter[str] = Counter()
    peer = None
    try:
        peer = open(isHarried=isHarried)
        for _ in range(random.randrange(1, 4)):
            random.choice(TALKS)(peer, random)
        random.choice(ENDS)(peer, random)
    except ENDED:
        if not isHarried:
            raise
        count["ended by the service"] = peer is not None
    finally:
        if peer is not None:
            peer.socket.close()
            count += peer.count + Counter(connections=1)
    return count


def crowd(
    opens: Sequence[Open], seconds: float, seed: int, isHarried: bool = False
) -> Counter[str]:
    """Run a client a thread, over and over. Raises what one of them has raised."""
    end = time.monotonic() + seconds

    def conversations(n: int) -> Iterator[Counter[str]]:
        rng = random.Random(f"{seed} {n}")
        while time.monotonic() < end:
            yield converse(opens[n], rng, isHarried)

    return together([conversations(n) for n in range(len(opens))])


def together(runs: Sequence[Iterator[Counter[str]]]) -> Counter[str]:
    """Run each in a thread of its own. Raises the first failure; returns the sum of the counts."""
    count: Counter[str] = Counter()
    failures: list[BaseException] = []
    lock = threading.Lock()

    def run(counts: Iterator[Counter[str]]) -> None:
        try:
            for some in counts:
                with lock:
                    count.update(some)
                if failures:
                    return
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(counts,)) for counts in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return count
