"""psycopg 3: types both ways in both formats, transactions, COPY, pipelines, errors, server-side parameters."""
import datetime, decimal, os, uuid
import psycopg
from psycopg.types.json import Jsonb

url = os.environ["URL"]
checks = 0


def check(actual, expected):
    global checks
    assert actual == expected, f"{actual!r} is not {expected!r}"
    checks += 1


with psycopg.connect(url, autocommit=True) as c:
    c.execute("DROP TABLE IF EXISTS kinds")
    c.execute(
        "CREATE TABLE kinds (id int PRIMARY KEY, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric(20,4), t text,"
        " v varchar(10), y bytea, d date, ti time, ts timestamp, tz timestamptz, u uuid, j jsonb)"
    )
    row = (
        1, True, -7, 2**40, 1.5, 0.1, decimal.Decimal("12345.6789"), "snow ❄ 'quoted'", "short", b"\x00\xff\x27",
        datetime.date(1997, 8, 29), datetime.time(2, 14, 0, 123456), datetime.datetime(2026, 1, 2, 3, 4, 5, 678901),
        datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc), uuid.UUID(int=42), Jsonb({"a": [1, None, "x"]}),
    )
    holes = ",".join(["%s"] * len(row))
    c.execute(f"INSERT INTO kinds VALUES ({holes})", row)
    for binary in (False, True):
        got = c.cursor(binary=binary).execute("SELECT * FROM kinds WHERE id = %s", (1,)).fetchone()
        check(got[:-1], row[:-1])
        check(got[-1], {"a": [1, None, "x"]})
        got = c.cursor(binary=binary).execute("SELECT * FROM kinds WHERE b AND i8 > 5 ORDER BY t").fetchone()
        check(got[:-1], row[:-1])
    c.execute(f"INSERT INTO kinds VALUES ({holes})", (2,) + (None,) * 15)
    check(c.execute("SELECT count(*), count(t) FROM kinds").fetchone(), (2, 1))

    # Prepared statements are kept by the server.
    for i in range(20):
        check(c.execute("SELECT id + %s FROM kinds WHERE id = %s", (i, 1), prepare=True).fetchone(), (1 + i,))

    c.execute("DROP TABLE IF EXISTS loaded")
    c.execute("CREATE TABLE loaded (id int PRIMARY KEY, t text)")
    with c.cursor().copy("COPY loaded FROM STDIN") as copy:
        for i in range(5000):
            copy.write_row((i, f"line {i}\twith\\stuff" if i % 2 else None))
    check(c.execute("SELECT count(*), count(t), sum(id) FROM loaded").fetchone(), (5000, 2500, 12497500))
    with c.cursor().copy("COPY (SELECT * FROM loaded WHERE id < 4 ORDER BY id) TO STDOUT") as copy:
        check(list(copy.rows()), [("0", None), ("1", "line 1\twith\\stuff"), ("2", None), ("3", "line 3\twith\\stuff")])

    with c.pipeline():
        first = c.execute("SELECT 1")
        c.execute("UPDATE loaded SET t = 'piped' WHERE id = 0")
        last = c.execute("SELECT t FROM loaded WHERE id = 0")
    check((first.fetchone(), last.fetchone()), ((1,), ("piped",)))

    # A failed batch of executemany leaves nothing behind.
    try:
        with c.transaction():
            c.cursor().executemany("INSERT INTO loaded VALUES (%s, %s)", [(9000, "a"), (9001, "b"), (1, "clash")])
        raise SystemExit("a duplicate key was accepted")
    except psycopg.errors.UniqueViolation as error:
        check(error.diag.constraint_name, "loaded_pkey")
        check(error.diag.message_detail, "Key (id)=(1) already exists.")
    check(c.execute("SELECT count(*) FROM loaded WHERE id >= 9000").fetchone(), (0,))

with psycopg.connect(url) as c:
    c.execute("INSERT INTO loaded VALUES (7000, 'x')")
    with c.transaction() as outer:
        try:
            with c.transaction():
                c.execute("INSERT INTO loaded VALUES (7001, 'y')")
                raise ValueError
        except ValueError:
            pass
        check(c.execute("SELECT count(*) FROM loaded WHERE id >= 7000").fetchone(), (1,))
    c.rollback()
    check(c.execute("SELECT count(*) FROM loaded WHERE id >= 7000").fetchone(), (0,))
    try:
        c.execute("SELECT no_such_column FROM loaded")
    except psycopg.errors.UndefinedColumn:
        checks += 1
    check(c.info.transaction_status, psycopg.pq.TransactionStatus.INERROR)
    c.rollback()
    cursor = c.execute("SELECT id, t, 1.50::numeric AS n FROM loaded WHERE id < 3 ORDER BY 1")
    check([d.name for d in cursor.description], ["id", "t", "n"])
    check([d.type_code for d in cursor.description], [23, 25, 1700])
    check(cursor.fetchmany(2)[1][0], 1)
print(f"{checks} checks")
