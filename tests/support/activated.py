"""Runs a command with a listening socket as systemd would, sd_listen_fds(3):

python activated.py DESCRIPTOR COMMAND...
"""

import os
import sys

if __name__ == "__main__":
    os.dup2(int(sys.argv[1]), 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="echotwist")
    os.execvp(sys.argv[2], sys.argv[2:])
