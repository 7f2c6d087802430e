# SPDX-License-Identifier: Apache-2.0
"""Lab files: how they merge, the errors with their places, and that ours match containerlab's schema."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator

from topology.errors import LabError
from topology.lab import clab, spec
from topology.lab.layers import IGNORED_NODE_KEYS, NODE_KEYS
from topology.lab.source import Text

ROOT = Path(__file__).resolve().parents[3]
OURS = sorted((ROOT / "topology").glob("*.clab.yml"))
FILE = Path("/labs/x.clab.yml")


def read(text: str, **variables: str) -> spec.Topology:
    return clab.read(text, FILE, variables)


def fault(text: str, **variables: str) -> str:
    with pytest.raises(LabError) as caught:
        read(text, **variables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


LAYERED = """
name: layered
topology:
  defaults:
    kind: linux
    image: default-image
    group: plain
    env: {A: defaults, B: defaults, C: defaults, D: defaults}
    exec: [echo defaults]
    binds: ["from-defaults:/a", "from-defaults:/b"]
    sysctls: {net.ipv4.ip_forward: 0}
  kinds:
    linux:
      env: {B: kind, C: kind, D: kind}
      exec: [echo kind]
      cmd: sleep 1
  groups:
    plain:
      labels: {of: plain}
    router:
      env: {C: group, D: group}
      exec: [echo group]
      cmd: sleep 2
      sysctls: {net.ipv4.ip_forward: 1}
  nodes:
    one:
      group: router
      env: {D: node, E: 5, F: true, G: }
      exec: [echo node, "sh -c 'echo a  b; exit 0'"]
      binds: ["other:/b:ro", "/abs/c:/c"]
    two:
"""


def test_layers_merge_as_in_containerlab() -> None:
    one, two = read(LAYERED).nodes.values()
    assert one.env == {"A": "defaults", "B": "kind", "C": "group", "D": "node", "E": "5", "F": "true", "G": ""}
    assert [line.argv for line in one.exec] == [
        ("echo", "defaults"),
        ("echo", "kind"),
        ("echo", "group"),
        ("echo", "node"),
        ("sh", "-c", "echo a  b; exit 0"),
    ]
    assert (one.image, one.group, one.cmd) == ("default-image", "router", ("sleep", "2"))
    assert one.sysctls == {"net.ipv4.ip_forward": "1"}
    assert [(str(b.source), b.target, b.read_only) for b in one.binds] == [
        ("/labs/from-defaults", "/a", False),
        ("/labs/other", "/b", True),
        ("/abs/c", "/c", False),
    ]
    assert (two.group, two.labels, two.cmd) == ("plain", {"of": "plain"}, ("sleep", "1"))
    assert two.env == {"A": "defaults", "B": "kind", "C": "kind", "D": "kind"}


def test_kind_may_come_from_the_group() -> None:
    text = "name: x\ntopology: {groups: {g: {kind: linux}}, nodes: {a: {group: g}}}"
    assert read(text).nodes["a"].group == "g"


def test_links_brief_and_extended() -> None:
    brief, extended = read("""
name: x
topology:
  defaults: {kind: linux, network-mode: none}
  nodes: {a: , b: }
  links:
    - endpoints: [a:eth0, b:eth1]
    - type: veth
      mtu: 1500
      endpoints:
        - {node: a, interface: eth1, mac: 02-00-00-00-00-AA}
        - {node: b, interface: veth-abcdefghij}
""").links
    assert (brief.ends, brief.mtu) == ((spec.End("a", "eth0"), spec.End("b", "eth1")), 9500)
    assert extended.ends == (spec.End("a", "eth1", "02:00:00:00:00:aa"), spec.End("b", "veth-abcdefghij"))
    assert extended.mtu == 1500


NODE = "name: x\ntopology:\n  nodes:\n    a:\n      kind: linux\n"
LINKED = "name: x\ntopology:\n  defaults: {kind: linux}\n  nodes: {a: , b: }\n  links:\n"

FAULTS = [
    ("", "x.clab.yml: is empty"),
    ("name: x\n", "x.clab.yml:1:1: topology is missing"),
    ("topology: {nodes: {a: {kind: linux}}}\n", "x.clab.yml:1:1: name is missing"),
    ("name: x\ntopology: {}\n", "2:11: topology: nodes is missing"),
    ("name: x\ntopology: {nodes: }\n", "2:18: topology.nodes: has no node"),
    ("name: a/b\n" + NODE[8:], "1:7: name: 'a/b': must be letters"),
    ("name: x\nprefixes: y\n" + NODE[8:], "2:1: prefixes: unsupported key; supported here: name, topology"),
    ("name: [\n", "not YAML: "),
    ("name: x\n\ttopology: y\n", "x.clab.yml:2:1: not YAML: "),
    (NODE + "      startup-config: x\n", "6:7: topology.nodes.a.startup-config: unsupported key"),
    (NODE + "      kind: linux\n", "6:7: topology.nodes.a.kind: is given twice"),
    (NODE + "    a:\n      kind: linux\n", "6:5: topology.nodes.a: is given twice"),
    (NODE.replace("linux", "nokia_srlinux"), "5:13: topology.nodes.a.kind: 'nokia_srlinux' is not supported"),
    ("name: x\ntopology: {nodes: {a: {image: b}}}", "2:20: topology.nodes.a: kind is missing"),
    ("name: x\ntopology: {kinds: {bridge: {}}, nodes: {}}", "2:20: topology.kinds.bridge: unsupported kind"),
    (NODE + "      network-mode: host\n", "6:21: topology.nodes.a.network-mode: 'host' is not supported"),
    (NODE + "      exec:\n        - echo a: b\n", "7:11: topology.nodes.a.exec[0]: must be a string"),
    (NODE + "      exec: ls\n", "6:13: topology.nodes.a.exec: must be a list"),
    (NODE + '      exec: ["sh -c \'x"]\n', "6:14: topology.nodes.a.exec[0]: No closing quotation"),
    (NODE + "      exec: [' ']\n", "6:14: topology.nodes.a.exec[0]: is an empty command"),
    (NODE + "      cmd: echo __clabNodeName__\n", "6:12: topology.nodes.a.cmd: containerlab's __clab"),
    (NODE + "      env: [A=b]\n", "6:12: topology.nodes.a.env: must be a mapping"),
    (NODE + "      env: {A: [b]}\n", "6:16: topology.nodes.a.env.A: must be a single value"),
    (NODE + "      env: {__IMPORT_ENVS: true}\n", "6:28: topology.nodes.a.env.__IMPORT_ENVS: is not supported"),
    (NODE + "      sysctls: {kernel.panic: 1}\n", "6:31: topology.nodes.a.sysctls.kernel.panic: only net.*"),
    (NODE + "      sysctls: {net.ipv4.../../x: 1}\n", "topology.nodes.a.sysctls.net.ipv4.../../x: only net.*"),
    (NODE + "      binds: [/etc/passwd]\n", "6:15: topology.nodes.a.binds[0]: '/etc/passwd': must be SOURCE:TARGET"),
    (NODE + "      binds: ['a:b']\n", "6:15: topology.nodes.a.binds[0]: 'a:b': must be SOURCE:TARGET"),
    (NODE + "      binds: ['a:/b:rx']\n", "6:15: topology.nodes.a.binds[0]: 'a:/b:rx': must be SOURCE:TARGET"),
    (NODE + "      binds: ['~/a:/b']\n", "6:15: topology.nodes.a.binds[0]: '~/a': write the source absolute"),
    (NODE + "      group: g\n  groups: {h: {}}\n", "6:14: topology.nodes.a.group: 'g' is not in topology.groups"),
    (NODE.replace("    a:", "    a b:"), "4:5: topology.nodes.a b: a node's name must be"),
    (LINKED + "    - endpoints: [a:eth1]\n", "6:7: topology.links[0]: a link needs endpoints, exactly two"),
    (LINKED + "    - mtu: 9\n", "6:7: topology.links[0]: a link needs endpoints"),
    (
        LINKED + "    - {endpoints: [a:eth1, 'c:eth1']}\n",
        "6:28: topology.links[0].endpoints[1]: unknown node 'c'; nodes: a, b",
    ),
    (LINKED + "    - {endpoints: [a:eth1, b]}\n", "6:28: topology.links[0].endpoints[1]: 'b': must be NODE:INTERFACE"),
    (
        LINKED + "    - {endpoints: [a:eth0, b:eth1]}\n",
        "6:20: topology.links[0].endpoints[0]: eth0 is containerlab's management",
    ),
    (
        LINKED + "    - {endpoints: [a:eth1, b:eth1]}\n    - {endpoints: [b:eth2, a:eth1]}\n",
        "7:28: topology.links[1].endpoints[1]: a:eth1 is already in topology.links[0].endpoints[0]",
    ),
    (LINKED + "    - {endpoints: [a:eth1, a:eth1]}\n", "a:eth1 is already in topology.links[0].endpoints[0]"),
    (
        LINKED + "    - {endpoints: [a:e234567890123456, b:x]}\n",
        "6:20: topology.links[0].endpoints[0]: 'e234567890123456': an int",
    ),
    (LINKED + "    - {endpoints: [a:lo, b:x]}\n", "topology.links[0].endpoints[0]: 'lo': an interface name"),
    (LINKED + "    - {endpoints: [a:e1, b:e1], mtu: 67}\n", "6:38: topology.links[0].mtu: 67 is not in 68–65535"),  # noqa: RUF001
    (LINKED + "    - {endpoints: [a:e1, b:e1], mtu: '1500'}\n", "6:38: topology.links[0].mtu: must be a whole number"),
    (LINKED + "    - {endpoints: [a:e1, b:e1], ipv4: []}\n", "6:33: topology.links[0].ipv4: unsupported key"),
    (LINKED + "    - {type: host, endpoints: []}\n", "6:14: topology.links[0].type: 'host' is not supported"),
    (
        LINKED
        + "    - {type: veth, endpoints: [{node: a, interface: e, mac: 01:00:00:00:00:01}, {node: b, interface: e}]}\n",
        "topology.links[0].endpoints[0].mac: '01:00:00:00:00:01' is not a unicast MAC",
    ),
    (
        LINKED + "    - {type: veth, endpoints: [{node: a}, {node: b, interface: e}]}\n",
        "6:32: topology.links[0].endpoints[0]: interface is missing",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[message[:60] for _, message in FAULTS])
def test_a_fault_names_its_place(text: str, message: str) -> None:
    assert message in fault(text)
    assert fault(text).startswith("/labs/x.clab.yml:")


OF_CONTAINERS = """\
name: x
prefix: ""
topology:
  defaults: {kind: linux, cpu: 2, memory: 1GB}
  kinds: {linux: {restart-policy: no}}
  nodes:
    a: {mgmt-ipv4: 172.20.20.2, ports: ["80:80"], env: {A: b}}
    b: {cpu-set: 0-1, cap-add: [NET_ADMIN]}
  links:
    - {endpoints: [a:e1, b:e1], vars: {x: 1}, labels: {x: y}}
    - {type: veth, endpoints: [{node: a, interface: e2, vars: {}}, {node: b, interface: e2}]}
mgmt: {network: lab}
"""


def test_what_only_containers_have_is_a_warning_and_all_are_named_at_once() -> None:
    found = read(OF_CONTAINERS)
    assert found.nodes["a"].env == {"A": "b"}
    assert [end.interface for link in found.links for end in link.ends] == ["e1", "e1", "e2", "e2"]
    assert found.warnings == tuple(
        f"/labs/x.clab.yml:{place}: has no effect here"
        for place in (
            "2:1: prefix",
            "4:27: topology.defaults.cpu",
            "4:35: topology.defaults.memory",
            "5:19: topology.kinds.linux.restart-policy",
            "7:9: topology.nodes.a.mgmt-ipv4",
            "7:33: topology.nodes.a.ports",
            "8:9: topology.nodes.b.cpu-set",
            "8:23: topology.nodes.b.cap-add",
            "10:33: topology.links[0].vars",
            "10:47: topology.links[0].labels",
            "11:57: topology.links[1].endpoints[0].vars",
            "12:1: mgmt",
        )
    )


def test_ignored_keys_are_containerlabs() -> None:
    schema = ROOT.parent / "shared" / "clab.schema.json"
    if not schema.exists():
        pytest.skip(f"containerlab's schema is not available ({schema})")
    document = json.loads(schema.read_text())
    node = document["definitions"]["node-config"]["properties"]
    assert set(IGNORED_NODE_KEYS) < set(node)
    assert not set(IGNORED_NODE_KEYS) & set(NODE_KEYS)
    assert set(clab.IGNORED_KEYS) < set(document["properties"])


@pytest.mark.parametrize(
    ("text", "variables", "expanded"),
    [
        ("a ${X} $X b", {"X": "1"}, "a 1 1 b"),
        ("${X:=auto} ${X:-auto}", {}, "auto auto"),
        ("${X:=auto} ${X:-auto}", {"X": ""}, "auto auto"),
        ("[${X=auto}] [${X-auto}]", {"X": ""}, "[] []"),
        ("${X:=auto}", {"X": "off"}, "off"),
        ("${X+set} ${X:+set}", {"X": ""}, "set "),
        ("${X:=}", {}, ""),
        ("$$X $${X} $$$X", {"X": "1"}, "$X ${X} $1"),
        ("100 $ and $1 stay", {}, "100 $ and $1 stay"),
    ],
)
def test_variables_expand_as_in_containerlab(text: str, variables: dict[str, str], expanded: str) -> None:
    assert Text("f", text, variables).expanded == expanded


def test_variables_work_in_a_file_and_positions_are_the_files() -> None:
    text = NODE + "      env: {LONG: '${LONG}', N: ${N:=7}}\n"
    assert read(text, LONG="v" * 50).nodes["a"].env == {"LONG": "v" * 50, "N": "7"}
    # The wrong key follows an expansion that made its line longer, and precedes an invalid one.
    moved = NODE + "      env: {LONG: '${LONG}'}\n      exec: ['${LONG}', bad: 1]\n"
    assert fault(moved, LONG="v" * 50).startswith("/labs/x.clab.yml:7:25: topology.nodes.a.exec[1]: must be a string")
    assert fault(NODE + "      image: $NOPE\n").startswith("/labs/x.clab.yml:6:14: $NOPE is not set")
    assert fault(NODE + "      image: ${A B}\n").startswith("/labs/x.clab.yml:6:14: ${A B}: not a variable")
    assert fault(NODE + "      image: '{{ .x }}'\n").startswith("/labs/x.clab.yml:6:15: '{{': Go templates")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"none\.clab\.yml: No such file or directory; give a \.clab\.yml file"):
        clab.load(tmp_path / "none.clab.yml", {})
    (tmp_path / "bytes.clab.yml").write_bytes(b"name: \xff")
    with pytest.raises(LabError, match=r"bytes\.clab\.yml: is not UTF-8"):
        clab.load(tmp_path / "bytes.clab.yml", {})
    for endless in (Path("/dev/zero"), tmp_path):
        with pytest.raises(LabError, match=f"^{endless}: is no file; give a .clab.yml file"):
            clab.load(endless, {})


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_labs_are_read(path: Path) -> None:
    topology = clab.load(path, {})
    assert topology.warnings == ()
    servers = ["b1", "b2", "b3", "b4"]
    more = {
        "routed.clab.yml": servers,
        "dual.clab.yml": ["segment", *servers],
        "nat.clab.yml": ["segment", "farm", *servers, "b5", "b6", "s1", "s2", "s3"],
    }.get(path.name, ["segment", *servers, "b5", "b6"])
    routers = ["router1", "router2"] if path.name == "dual.clab.yml" else ["router"]
    assert list(topology.nodes) == ["client", *routers, *more]
    assert {link.mtu for link in topology.links} == {1500}
    assert topology.nodes["b3"].env["ANYLB_XDP"] == "auto"
    assert clab.load(path, {"XDP": "off"}).nodes["b3"].env["ANYLB_XDP"] == "off"
    assert all(bind.source.exists() for node in topology.nodes.values() for bind in node.binds)
    # Where containerlab runs the file, its own exec lines must switch GRO on at every end.
    for link in topology.links:
        for end in link.ends:
            lines = " ".join(" ".join(line.argv) for line in topology.nodes[end.node].exec)
            assert "gro on" in lines


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_labs_match_containerlabs_schema(path: Path) -> None:
    schema = ROOT.parent / "shared" / "clab.schema.json"
    if not schema.exists():
        pytest.skip(f"containerlab's schema is not available ({schema})")
    validator = Draft7Validator(json.loads(schema.read_text()))
    document = yaml.safe_load(Text(path.name, path.read_text(), {}).expanded)
    assert [error.message for error in validator.iter_errors(document)] == []
    document["topology"]["nodes"]["b1"]["x-extra"] = 1
    assert list(validator.iter_errors(document))  # the schema is strict, so the check above means something
