# psql's \d family: no command fails, and what describes tables reads as PostgreSQL's does.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
drop='DROP VIEW IF EXISTS meta_view, meta_columns;
    DROP TABLE IF EXISTS meta_tree, meta_child, meta_parent, meta_types, "meta_Quoted", meta_plain;
    DROP SEQUENCE IF EXISTS meta_counter;'
load() { psql -Xq -v ON_ERROR_STOP=1 -c "$drop" -f "$here/every_feature.sql" "$1" 2>/dev/null; }
load "$URL"

# Everything psql 15 describes with, also what Polity has none of: those are empty lists.
ran=0
while IFS= read -r command; do
    # \dRp+ fails where there is nothing to show, on PostgreSQL too.
    psql -X -v ON_ERROR_STOP=1 -c "$command" "$URL" >"$work/out" 2>&1 || grep -q '^Did not find any' "$work/out" || { echo "$command:"; cat "$work/out"; exit 1; }
    ! grep -qE '^(ERROR|FATAL)|psql:.*ERROR' "$work/out" || { echo "$command:"; cat "$work/out"; exit 1; }
    ran=$((ran + 1))
done <<'COMMANDS'
\d
\d+
\dS
\da
\dA
\dA+
\dAc
\dAf
\dAo
\dAp
\db
\db+
\dc
\dC
\dC+
\dd
\dD
\dD+
\ddp
\dE
\des
\des+
\det
\det+
\deu
\deu+
\dew
\dew+
\df
\df+
\dfa
\dfn
\dfw
\df now
\dF
\dFd
\dFp
\dFt
\dg
\dg+
\di
\di+
\dl
\dL
\dL+
\dm
\dn
\dn+
\do
\dO
\dO+
\dp
\dP
\drds
\dRp
\dRp+
\dRs
\dRs+
\ds
\ds+
\dt
\dt+
\dT
\dT+
\dTS
\du
\du+
\dv
\dv+
\dx
\dx+
\dX
\dy
\dy+
\dconfig
\dconfig+ *time*
\l
\l+
\z
\d+ meta_*
\d pg_class
\d+ pg_class
\d information_schema.tables
\sv meta_view
\sv+ meta_columns
\conninfo
\encoding
COMMANDS

if [ -n "$ORACLE_URL" ]; then
    load "$ORACLE_URL"
    while IFS= read -r command; do
        # The owner's name is the one thing that differs by right.
        psql -XA -c "$command" "$ORACLE_URL" 2>&1 | sed 's/|postgres\b/|polity/' >"$work/expected"
        psql -XA -c "$command" "$URL" >"$work/actual" 2>&1
        diff "$work/expected" "$work/actual" || { echo "$command differs from PostgreSQL's (<)"; exit 1; }
        ran=$((ran + 1))
    done <<'COMMANDS'
\d meta_*
\d "meta_Quoted"
\d+ meta_child
\d+ meta_parent
\d+ meta_tree
\d+ meta_types
\d+ meta_child_born
\d+ meta_counter
\di meta_*
\dt meta_*
\dv meta_*
\ds meta_*
\dp meta_*
\z meta_*
\dd meta_*
\dy
\dP
\dconfig DateStyle
COMMANDS
fi
psql -Xq -c "$drop" "$URL" 2>/dev/null
echo "$ran commands"
