"""The codec of echotwist.testing, under its earlier name."""

from echotwist.testing.frames import *  # noqa: F403
