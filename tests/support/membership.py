# SPDX-License-Identifier: Apache-2.0
"""What the tests of membership share: the key of their cluster, and when it is at rest."""

from pathlib import Path

from support.cluster_lab import FOUR, ClusterLab

KEY_FILE, KEY = Path("/etc/anylb/cluster.key"), "00112233445566778899aabbccddeeff"


def settled(cluster: ClusterLab) -> bool:
    """Whether all are announced, all tables agree, and every node has the latest state of every other."""
    if cluster.next_hops() != set(FOUR) or not cluster.tables_agree():
        return False
    statuses = {cluster.addresses[node]: cluster.status(node) for node in FOUR if cluster.agent_answers(node)}
    versions = {address: status["node"]["version"] for address, status in statuses.items()}
    return all(
        member["version"] == versions[member["address"]]
        for own, status in statuses.items()
        for member in status["members"]
        if member["address"] in versions.keys() - {own}
    )
