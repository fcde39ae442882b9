"""`polity check` on a system that none of us wrote: PostgreSQL must show the anomalies its levels allow, and no other.

READ COMMITTED lets a transaction see what was committed while it ran (G-single), REPEATABLE READ hides that and lets two
transactions overwrite what the other has read (G2-item), SERIALIZABLE allows neither. All other workloads must be clean at
SERIALIZABLE. An anomaly is a matter of chance, so a level has several attempts to show it.
"""

import json
import os
import subprocess
import sys

POLITY, ORACLE = os.environ["POLITY"], os.environ.get("ORACLE_URL")
ATTEMPTS = 8


def check(level, workload, seconds):
    command = [POLITY, "check", "--json", "--isolation", level, "--workload", workload, "--seconds", str(seconds), ORACLE]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=300)
    report = json.loads(done.stdout)
    assert done.returncode == 0, f"{level}: {report['verdict']}: {json.dumps(report)[:2000]}"
    return {anomaly["anomaly"]: anomaly["count"] for part in report["workloads"] for anomaly in part["anomalies"]}


def shows(level, wanted, never):
    """Runs until each of these anomalies was seen once, and none of those ever."""
    seen = {}
    for _ in range(ATTEMPTS):
        for anomaly, count in check(level, "append", 3).items():
            seen[anomaly] = seen.get(anomaly, 0) + count
        assert not never & seen.keys(), f"{level} showed {seen}"
        if wanted <= seen.keys():
            return f"{level} {sum(seen[anomaly] for anomaly in wanted)}"
    sys.exit(f"{level} never showed {wanted}, but {seen}")


if not ORACLE:
    print("no PostgreSQL server")
    sys.exit(77)
read_committed = shows("read-committed", {"G-single"}, set())
repeatable_read = shows("repeatable-read", {"G2-item"}, {"G-single"})
found = check("serializable", "all", 7)
assert not found, f"SERIALIZABLE showed {found}"
print(f"anomalies: {read_committed}, {repeatable_read}, serializable 0")
