"""Tells twistd where echotwist is; the plugin scan loads this file, so it loads nothing."""

from twisted.application.service import ServiceMaker

echotwist = ServiceMaker("echotwist", "echotwist.twistd", "A WebSocket echo service.", "echotwist")
