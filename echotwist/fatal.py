"""What keeps the service from starting."""


class Fatal(SystemExit, Exception):
    """The service cannot start; the message is for the operator.

    A SystemExit, so that Python prints one line and no traceback and ends with status 1; and
    an Exception, because twistd tidies up (its pid file, the parent process that waits for
    the daemon) for nothing else.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"echotwist: {message}")
