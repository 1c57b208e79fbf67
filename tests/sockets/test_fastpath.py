"""The loops of the fast path on their threads."""

import select

from support.memory import Service

from echotwist.fastpath.lending import FastPath


def test_an_idle_loop_on_its_thread_answers() -> None:
    service = Service(isFast=False)
    fastPath = FastPath(service.reactor, service.context.limits, service.context.journal, 2)
    fastPath.start()
    try:
        for _ in range(3):
            assert fastPath.hanging() == []
            while fastPath._checked:
                assert select.select([fastPath], [], [], 20)[0]
                fastPath.doRead()
            service.reactor.rightNow += 3600
    finally:
        fastPath.stop()
