"""What keeps the service from starting."""


class Fatal(SystemExit, Exception):
    """The service cannot start. The message is for the operator.

    It is a SystemExit, so that Python prints one line without a traceback and exits with status 1.
    It is also an Exception, because twistd cleans up after nothing else: its pid file, and the
    parent process that waits for the daemon.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"echotwist: {message}")
