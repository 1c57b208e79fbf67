"""Metrics and alerts, checked by Prometheus's own promtool."""

import subprocess
from pathlib import Path

import pytest
from support.admin import ADMIN, get
from support.memory import Service
from support.process import needs

from echotwist.testing.frames import close, text
from echotwist.testing.raw import request


def test_promtool_accepts_the_metrics(tmp_path: Path) -> None:
    """Prometheus's own tool has no complaint."""
    promtool = needs("promtool", "prometheus")
    service = Service(ADMIN, "--max-connections=1")
    service.open().send(text("x") + close(1000))
    service.connect().send(request(Host=None))
    _, body = get(service, "/metrics")
    told = subprocess.run(
        [promtool, "check", "metrics"], input=body, capture_output=True, timeout=60
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")


ALERTS = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"


DUE = """
rule_files: [{alerts}]
evaluation_interval: 5m
tests:
  - interval: 1m
    input_series:
      # At the time 0 of the test.
      - series: 'echotwist_certificate_not_after_seconds{{job="e", instance="a", file="f"}}'
        values: '{end}x180'
      - series: 'echotwist_connections_dropped_total{{job="e", instance="a", reason="{reason}"}}'
        values: '0+60x180'
    alert_rule_test:
      - eval_time: 2h
        alertname: EchotwistCertificateEnds
        exp_alerts: [{certificate}]
      - eval_time: 2h
        alertname: EchotwistDropping
        exp_alerts: [{dropping}]
"""


ENDS = (
    '{{exp_labels: {{job: e, instance: a, file: f}}, exp_annotations: {{summary: "the certificate '
    'f of a ends in {left}"}}}}'
)


DROPS = (
    '{{exp_labels: {{job: e, instance: a, reason: "{reason}"}}, exp_annotations: {{summary: "a '
    'drops new connections; its log says why"}}}}'
)


@pytest.mark.parametrize(
    ("end", "certificate"),
    [
        (2 * 3600 + 7 * 86400 + 60, ""),
        (2 * 3600 + 6 * 86400, ENDS.format(left="6d 0h 0m 0s")),
        (3600, ENDS.format(left="-1h 0m 0s")),
    ],
)
@pytest.mark.parametrize("reason", ["half a header", "no TLS handshake in time"])
def test_promtool_fires_the_alerts_when_due(
    tmp_path: Path, end: int, certificate: str, reason: str
) -> None:
    promtool = needs("promtool", "prometheus")
    dropping = "" if "TLS" in reason else DROPS.format(reason=reason)
    trial = tmp_path / "trial.yml"
    trial.write_text(
        DUE.format(alerts=ALERTS, end=end, certificate=certificate, reason=reason,
                   dropping=dropping)
    )  # fmt: skip
    told = subprocess.run(
        [promtool, "test", "rules", trial], capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, told.stdout + told.stderr
