"""Where a service of a test is, as it has announced it, and how its clients trust it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    from echotwist.testing.certificates import Authority


class Announced:
    """What a service in a process and one in the reactor have in common for their clients."""

    _announced: dict[str, Any]
    """As --announce has it; empty before the service was started."""

    _authority: "Authority | None"
    """Has signed the certificate; None without TLS."""

    def _told(self, key: str) -> str:
        """Raises ValueError if there is none, and RuntimeError before there is an announcement."""
        if not self._announced:
            raise RuntimeError("the service was not started")
        if self._announced[key] is None:
            raise ValueError(f"the service has no {key} with a host and a port")
        return str(self._announced[key])

    @property
    def url(self) -> str:
        """The echo endpoint, such as `ws://127.0.0.1:40123/echo`."""
        return self._told("url")

    @property
    def page(self) -> str:
        """The URL of the page, such as `http://127.0.0.1:40123/`."""
        return self._told("page")

    @property
    def port(self) -> int:
        """Of the `url`."""
        return int(self.url.rpartition(":")[2].partition("/")[0])

    @property
    def clientContext(self) -> "ssl.SSLContext | None":
        """For clients of the `url`; None without TLS, as clients in Python take it."""
        return None if self._authority is None else self._authority.clientContext()

    @property
    def caFile(self) -> Path | None:
        """The authority's certificate, for other clients; None without TLS."""
        return None if self._authority is None else self._authority.caFile
