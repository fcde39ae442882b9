# pgbench initialises at scale 10 and runs its three built-in scripts, simple and prepared, without one failed transaction.
set -euo pipefail
log=$(mktemp); trap 'rm -f "$log"' EXIT
pgbench -i -q -s 10 "$URL" 2>&1 | tail -2
for mode in simple prepared; do
    for script in select-only simple-update tpcb-like; do
        pgbench -n -b $script -M $mode -c 8 -j 2 -t 200 "$URL" >"$log" 2>&1 || { cat "$log"; exit 1; }
        grep -q 'number of failed transactions: 0' "$log" || { cat "$log"; exit 1; }
        echo "$mode $script: $(grep '^tps' "$log")"

    done
done
# What TPC-B keeps: the sums of all three tables and the history agree.
sums=$(psql -XAtq "$URL" -c "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history where bid is not null and aid is not null)
  and (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers)")
[ "$sums" = t ] || { echo "the balances do not agree"; exit 1; }
echo "6 runs, balances agree"
