# Loads a third-party dump unmodified and asks PostgreSQL and Polity the same questions about it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ -f "$NORTHWIND" ] || { echo "no dump at $NORTHWIND"; exit 77; }
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
psql -Xq -v ON_ERROR_STOP=1 -f "$NORTHWIND" "$URL" >"$work/load" 2>&1 || { tail -5 "$work/load"; exit 1; }
[ -n "$ORACLE_URL" ] || { echo "loaded; no PostgreSQL to compare with"; exit 77; }
psql -Xq -v ON_ERROR_STOP=1 -f "$NORTHWIND" "$ORACLE_URL" >"$work/load" 2>&1 || { tail -5 "$work/load"; exit 1; }
# Queries are separated by blank lines.
awk -v dir="$work" 'BEGIN { RS = ""; } { f = sprintf("%s/%03d.sql", dir, NR); print $0 > f; close(f) }' "$here/../northwind/queries.sql"
same=0 differ=0
for query in "$work"/*.sql; do
    psql -XA -f "$query" "$ORACLE_URL" >"$query.expected" 2>&1 || true
    psql -XA -f "$query" "$URL" >"$query.actual" 2>&1 || true
    if grep -q 'ERROR' "$query.expected"; then
        echo "PostgreSQL itself refuses $(basename "$query"):"; cat "$query" "$query.expected"; differ=$((differ + 1)); continue
    fi
    if cmp -s "$query.expected" "$query.actual"; then
        same=$((same + 1))
    else
        differ=$((differ + 1))
        echo "--- differs (expected from PostgreSQL <, actual >):"; cat "$query"
        diff "$query.expected" "$query.actual" | head -10 || true
    fi
done
echo "$same queries agree with PostgreSQL, $differ differ"
[ "$differ" = 0 ] && [ "$same" -ge 40 ]
