"""`python -m echotwist.probe URL`; or `-`, and the arguments as a list in JSON on stdin:
whoever lists the processes of a machine sees their arguments, and some of these are secrets."""

import json
import sys

from echotwist.probe.command import main

arguments = json.load(sys.stdin) if sys.argv[1:] == ["-"] else sys.argv[1:]
main(["probe", *arguments])
