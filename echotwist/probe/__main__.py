"""`python -m echotwist.probe URL`."""

import sys

from echotwist.probe.command import main

main(["probe", *sys.argv[1:]])
