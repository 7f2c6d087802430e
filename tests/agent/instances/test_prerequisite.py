# SPDX-License-Identifier: Apache-2.0
"""What `lbctl config check` warns of."""

import sys

from support.instances import config

from agent.instances.prerequisite import missing_for_instances


def test_warnings_name_the_match() -> None:
    match = [
        {"executable": "/usr/sbin/no-such-server"},
        {"executable": sys.executable},
        {"pidfile": "/run/not-yet.pid"},
        {"pidfile": "/var/tmp/web.pid"},  # noqa: S108 - nothing is written there
        {"unit": "web.service"},
    ]
    found = [str(warning) for warning in missing_for_instances(config({"match": match}).services[:1])]
    assert found == [
        "services[0].instances.match[0].executable: /usr/sbin/no-such-server is no file on this machine",
        "services[0].instances.match[3].pidfile: /var/tmp/web.pid is where lb-agent.service sees nothing of others; "
        "have the server write it below /run",
    ]
