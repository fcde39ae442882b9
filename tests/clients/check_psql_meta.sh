# psql's \d family: no command fails, and what describes tables reads as PostgreSQL's does.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat >"$work/schema.sql" <<'SQL'
CREATE TABLE meta_parent (a int, b varchar(10), c numeric(10,2) DEFAULT 1.5 NOT NULL, PRIMARY KEY (a, b));
CREATE TABLE meta_child (
    id serial PRIMARY KEY, a int, b varchar(10), mail text UNIQUE, born date, at timestamptz DEFAULT now(), doc jsonb,
    CONSTRAINT age CHECK (born > '1900-01-01'), FOREIGN KEY (a, b) REFERENCES meta_parent (a, b) ON DELETE CASCADE);
CREATE INDEX meta_child_born ON meta_child (born DESC, a);
CREATE VIEW meta_view AS SELECT a, count(*) AS n FROM meta_child GROUP BY a;
COMMENT ON TABLE meta_child IS 'children';
SQL
drop='DROP VIEW IF EXISTS meta_view; DROP TABLE IF EXISTS meta_child, meta_parent;'
load() { psql -Xq -v ON_ERROR_STOP=1 -c "$drop" -f "$work/schema.sql" "$1" 2>/dev/null; }
load "$URL"
commands=('\d' '\d+' '\dt' '\dt+' '\di' '\dv' '\ds' '\du' '\l' '\dn' '\df' '\dT' '\dp' '\dx' '\db' '\dC' '\dy' '\dg'
    '\d meta_child' '\d+ meta_child' '\d meta_parent' '\d meta_view' '\d meta_child_id_seq' '\d meta_child_born' '\dt meta_*' '\sv meta_view' '\conninfo' '\encoding')
ran=0
for command in "${commands[@]}"; do
    psql -X -v ON_ERROR_STOP=1 -c "$command" "$URL" >"$work/out" 2>&1 || { echo "$command:"; cat "$work/out"; exit 1; }
    ! grep -q ERROR "$work/out" || { echo "$command:"; cat "$work/out"; exit 1; }
    ran=$((ran + 1))
done
if [ -n "$ORACLE_URL" ]; then
    load "$ORACLE_URL"
    for command in '\d meta_child' '\d meta_parent' '\d meta_child_id_seq' '\d meta_child_born' '\di meta_*' '\dt meta_*' '\dv meta_*'; do
        # The owner's name is the one thing that differs by right.
        psql -XA -c "$command" "$ORACLE_URL" 2>&1 | sed 's/postgres$/polity/' >"$work/expected"
        psql -XA -c "$command" "$URL" >"$work/actual" 2>&1
        diff "$work/expected" "$work/actual" || { echo "$command differs from PostgreSQL's (<)"; exit 1; }
        ran=$((ran + 1))
    done
fi
psql -Xq -c "$drop" "$URL" 2>/dev/null
echo "$ran commands"
