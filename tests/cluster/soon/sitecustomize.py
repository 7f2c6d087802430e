# SPDX-License-Identifier: Apache-2.0
"""An agent that names contradictions after 5 s, not after half a minute: for labs that wait until they are named.

Python imports it at its start, from PYTHONPATH (support/cluster_lab.py). How long a contradiction must last is tested
in tests/agent/membership/test_conflict.py and tests/agent/channel/test_refusal.py.
"""

from agent.channel import problem
from agent.membership import conflict

assert conflict.MIN_DURATION_S == problem.MIN_DURATION_S == 30.0
conflict.MIN_DURATION_S = problem.MIN_DURATION_S = 5.0
