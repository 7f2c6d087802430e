#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What anylb needs on Debian: packages, a user and a virtual environment. Safe to run again.
#   ./setup.sh agent      a server: the agent and its BGP speaker, no routers and no tests
#   ./setup.sh            the demo and the tests as well
#   ./setup.sh bench      what only the measurements need, too
# With --dry-run it lists what it would see to, and changes nothing.
set -eu
cd "$(dirname "$0")"

fail() {
    echo "anylb: $*" >&2
    exit 1
}

# python3-bpfcc  BCC belongs to the system's python3; PyPI's bcc is another project
# python3-venv   the environment of everything else
# libatomic1     atomic changes of the memory that the agent shares with the program
# libpcap0.8     the filters of `lbctl trace`
# adduser        creates the user of the BGP speaker
packages="python3 python3-venv python3-bpfcc libatomic1 libpcap0.8 ca-certificates adduser"
# bird2 frr      the lab's routers
# gobgpd openbgpd  two more, for the interop matrix alone
# ethtool        switches checksum offload off in the lab
# tcpdump        captures a BGP session, for the test of what is announced
# git            names the files that the linters look at
# systemd-container  boots a systemd in a lab's node, for the test of the units
# nginx haproxy  servers that are instances of a service; `make bench` measures them too
# chromium  shows the agent's page, without a screen
# prometheus  promtool checks metrics and alert rules, and a scrape loads the dashboards
# curl  what docs/getting-started.md asks the service with
# iproute2 procps util-linux  ip, sysctl, nsenter, which the labs' exec lines use
test_packages="bird2 frr gobgpd openbgpd ethtool tcpdump git systemd-container nginx haproxy prometheus chromium curl"
test_packages="$test_packages iproute2 procps util-linux"
# libnginx-mod-stream wrk  a competitor and the load of `make bench`
bench_packages="libnginx-mod-stream wrk"

# Runs ExaBGP and nothing else. What a process of the user "nobody" may do, anybody's daemon may; bgp.user names another.
user=anylb-bgp
# Its members may read the state of the agent (lbctl status, check and others), as with the package.
group=anylb

mode=test
dry_run=no
for argument in "$@"; do
    case "$argument" in
        agent | test | bench) mode=$argument ;;
        --dry-run) dry_run=yes ;;
        *) fail "$argument is neither agent, test, bench nor --dry-run" ;;
    esac
done
requirements=requirements/test.txt
case "$mode" in
    agent) requirements="requirements/agent.txt requirements/setup.txt" ;;
    test) packages="$packages $test_packages" ;;
    bench) packages="$packages $test_packages $bench_packages" ;;
esac
if [ "$dry_run" = yes ]; then
    echo "packages: $packages"
    echo "user: $user"
    echo "group: $group"
    # shellcheck disable=SC2086  # a list of words
    echo "Python packages: $requirements: $(sed -n 's/==.*//p' $requirements | tr '\n' ' ')"
    exit
fi

[ "$(id -u)" = 0 ] || fail "needs root to install packages, and for namespaces and BPF: run it as root (su -, or sudo)"
command -v apt-get >/dev/null || fail "needs a Debian (12 or newer): there is no apt-get here"

policy=/usr/sbin/policy-rc.d
mark="# made by anylb's setup.sh, which removes it when it ends"
if [ -e "$policy" ] && grep -qF "$mark" "$policy"; then
    rm -f "$policy" # left by a run that was killed
fi
missing=""
for package in $packages; do
    case "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" in
        ii*) ;;
        *) missing="$missing $package" ;;
    esac
done

if [ -n "$missing" ]; then
    echo "anylb: installing$missing"
    # The labs run routers of their own: the packages must not start or enable any on this machine.
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 1' HUP INT TERM # dash runs the EXIT trap only if the shell exits by itself
        printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # shellcheck disable=SC2086  # a list of words
    { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        fail "apt-get could not install$missing: see $log"
    }
    rm -f "$log"
    if [ -d /run/systemd/system ]; then
        for service in bird frr gobgpd openbgpd nginx haproxy prometheus; do
            case " $missing " in *" $service"*) systemctl disable --quiet "$service.service" || true ;; esac
        done
    fi
fi

/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "needs Python 3.11 or newer as /usr/bin/python3; this one is $(/usr/bin/python3 -V). Debian 12 has it"
/usr/bin/python3 -c 'import bcc' 2>/dev/null || fail "/usr/bin/python3 cannot import bcc: apt-get install --reinstall python3-bpfcc"

getent passwd "$user" >/dev/null ||
    adduser --system --group --quiet --no-create-home --home /nonexistent "$user" ||
    fail "adduser could not create the user $user"
getent group "$group" >/dev/null || addgroup --system --quiet "$group" || fail "addgroup could not create the group $group"

echo "anylb: preparing .venv"
# Debian's python3, not another one on PATH, with its packages in sight: BCC lives there.
[ -x .venv/bin/python ] && .venv/bin/python -c 'import bcc' 2>/dev/null || {
    rm -rf .venv
    /usr/bin/python3 -m venv --system-site-packages .venv
}
pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
# shellcheck disable=SC2046,SC2086  # a list of words
pip --require-hashes --no-deps --only-binary :all: $(printf -- '--requirement %s ' $requirements) ||
    fail "pip could not install the Python packages of $requirements: see above"
# The tree itself has no hash: by what was just installed, and nothing else.
pip --no-build-isolation --no-deps --no-index --editable . || fail "pip could not install this tree: see above"
# Neither the units nor a lab's nodes may write bytecode: a start without it takes 0.7 s of CPU more.
.venv/bin/python -m compileall -q agent bgp bpf topology
[ "$mode" = agent ] || touch .venv/ready
[ "$mode" != bench ] || touch .venv/bench-ready
