# pg_dump: what it writes of a node can be loaded again, into the node and into PostgreSQL, and dumped from either reads the same.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
clear='DROP VIEW IF EXISTS meta_view, meta_columns;
    DROP TABLE IF EXISTS meta_tree, meta_child, meta_parent, meta_types, "meta_Quoted", meta_plain, dump_cart;
    DROP SEQUENCE IF EXISTS meta_counter;'
load() { psql -Xq -v ON_ERROR_STOP=1 -f "$2" "$1" >/dev/null; }
# What names the server, and the random word that guards a script, are not part of what is compared.
dump() { pg_dump "${@:2}" "$1" | grep -vE '^(-- Dumped |\\(un)?restrict )' ; }

# Begins with nothing: rows that others have changed are in an order that a dump does not keep.
psql -Xq -v ON_ERROR_STOP=1 "$URL" <<'SQL' 2>/dev/null
SELECT 'DROP TABLE IF EXISTS ' || quote_ident(tablename) || ' CASCADE' FROM pg_tables WHERE schemaname = 'public' \gexec
SELECT 'DROP VIEW IF EXISTS ' || quote_ident(viewname) || ' CASCADE' FROM pg_views WHERE schemaname = 'public' \gexec
SELECT 'DROP SEQUENCE IF EXISTS ' || quote_ident(sequencename) FROM pg_sequences WHERE schemaname = 'public' \gexec
SQL
[ ! -f "$NORTHWIND" ] || load "$URL" "$NORTHWIND" 2>/dev/null
psql -Xq -v ON_ERROR_STOP=1 -c "$clear" -f "$here/every_feature.sql" "$URL" 2>/dev/null
psql -Xq -v ON_ERROR_STOP=1 "$URL" <<'SQL'
INSERT INTO meta_parent VALUES (1, 'one', 1.25), (2, 'tw''o', 99999999.99);
INSERT INTO meta_child (a, b, mail, born, at, doc) VALUES
    (1, 'one', E'tab\tand\nline\\', '2001-02-03', '2001-02-03 04:05:06.789+00', '{"k": [1, null]}'), (2, 'tw''o', NULL, NULL, NULL, NULL);
INSERT INTO meta_tree (up, child) VALUES (NULL, 1), (1, 2);
INSERT INTO meta_types (big, single, double, amount, raw, hour, moment, instant, id, j) VALUES
    (-9223372036854775808, 1.5e-7, 'NaN', 12345678901234567890.123456789, '\x00ff5c', '23:59:59.999999', '1999-12-31 23:59:59.5',
     '2020-02-29 12:00:00+05:30', '00000000-0000-4000-8000-000000000001', '[1,  2]');
INSERT INTO "meta_Quoted" VALUES (1, '');
INSERT INTO meta_plain VALUES ('\.'), (NULL), ('é');
SELECT nextval('meta_counter'), nextval('meta_counter');
GRANT SELECT, INSERT ON meta_parent TO PUBLIC;
SQL

dump "$URL" >"$work/first.sql"
lines=$(wc -l <"$work/first.sql")
# Loaded again where everything is there already, after what --clean writes.
dump "$URL" --clean --if-exists >"$work/clean.sql"
load "$URL" "$work/clean.sql"
dump "$URL" >"$work/second.sql"
diff "$work/first.sql" "$work/second.sql"
# As one transaction.
psql -Xq -v ON_ERROR_STOP=1 --single-transaction -f "$work/clean.sql" "$URL" >/dev/null
dump "$URL" >"$work/third.sql"
diff "$work/first.sql" "$work/third.sql"
# The archive formats, which pg_restore reads.
pg_dump --format=custom --file="$work/archive" "$URL"
pg_restore --clean --if-exists --exit-on-error --dbname="$URL" "$work/archive"
dump "$URL" >"$work/fourth.sql"
diff "$work/first.sql" "$work/fourth.sql"
echo "a dump of $lines lines was loaded three times, once as one transaction and once by pg_restore, and dumped the same"

# An eventual table has its key from the beginning, which a script that adds keys after the rows does not give it: its
# rows go into one that is there.
psql -Xq -v ON_ERROR_STOP=1 "$URL" <<'SQL'
CREATE TABLE dump_cart (id uuid PRIMARY KEY, items set_of(bigint), stock counter CHECK (stock >= 0), note text)
    WITH (guarantee = 'eventual');
INSERT INTO dump_cart VALUES ('00000000-0000-4000-8000-000000000001', '{1,2}', 3, 'tea'), ('00000000-0000-4000-8000-000000000002', '{}', 0, NULL);
SQL
pg_dump --table=dump_cart "$URL" | grep -q "WITH (guarantee=eventual)" || { pg_dump --table=dump_cart "$URL"; exit 1; }
dump "$URL" --data-only --table=dump_cart >"$work/cart.sql"
psql -Xq -v ON_ERROR_STOP=1 -c "DELETE FROM dump_cart" "$URL"
load "$URL" "$work/cart.sql"
dump "$URL" --data-only --table=dump_cart | diff "$work/cart.sql" -
psql -Xq -v ON_ERROR_STOP=1 -c "DROP TABLE dump_cart" "$URL"

if [ -n "$ORACLE_URL" ] && [ -f "$NORTHWIND" ]; then
    # PostgreSQL loads all of it. It puts views and conditions into words of its own; the rest of its dump is the same text.
    psql -Xq -v ON_ERROR_STOP=1 -c "DROP SCHEMA public CASCADE" -c "CREATE SCHEMA public AUTHORIZATION pg_database_owner" \
        -c "GRANT USAGE ON SCHEMA public TO PUBLIC" -c "COMMENT ON SCHEMA public IS 'standard public schema'" "$ORACLE_URL" 2>/dev/null
    dump "$URL" --no-owner >"$work/ours.sql"
    load "$ORACLE_URL" "$work/ours.sql"
    worded=(--no-owner --exclude-table=meta_view --exclude-table=meta_columns --exclude-table=meta_tree)
    dump "$URL" "${worded[@]}" >"$work/ours.sql"
    dump "$ORACLE_URL" "${worded[@]}" >"$work/theirs.sql"
    diff "$work/ours.sql" "$work/theirs.sql"
    echo "PostgreSQL loaded a dump of $(wc -l <"$work/ours.sql") lines and dumps the same"
fi
psql -Xq -c "$clear" "$URL" 2>/dev/null
