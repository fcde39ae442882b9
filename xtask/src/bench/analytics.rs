//! Five questions asked of TPC-H's tables at scale 0.1.

use std::path::Path;
use std::process::Command;

use super::Options;
use super::report::{Report, median};
use super::servers::{Servers, output};

const SCHEMA: &str = "
create table region (r_regionkey int primary key, r_name char(25), r_comment varchar(152));
create table nation (n_nationkey int primary key, n_name char(25), n_regionkey int, n_comment varchar(152));
create table supplier (s_suppkey int primary key, s_name char(25), s_address varchar(40), s_nationkey int, s_phone char(15),
  s_acctbal numeric(15,2), s_comment varchar(101));
create table customer (c_custkey int primary key, c_name varchar(25), c_address varchar(40), c_nationkey int, c_phone char(15),
  c_acctbal numeric(15,2), c_mktsegment char(10), c_comment varchar(117));
create table part (p_partkey int primary key, p_name varchar(55), p_mfgr char(25), p_brand char(10), p_type varchar(25),
  p_size int, p_container char(10), p_retailprice numeric(15,2), p_comment varchar(23));
create table partsupp (ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost numeric(15,2), ps_comment varchar(199),
  primary key (ps_partkey, ps_suppkey));
create table orders (o_orderkey int primary key, o_custkey int, o_orderstatus char(1), o_totalprice numeric(15,2),
  o_orderdate date, o_orderpriority char(15), o_clerk char(15), o_shippriority int, o_comment varchar(79));
create table lineitem (l_orderkey int, l_partkey int, l_suppkey int, l_linenumber int, l_quantity numeric(15,2),
  l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1), l_linestatus char(1),
  l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44),
  primary key (l_orderkey, l_linenumber));";

const TABLES: &[&str] = &["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];

const QUESTIONS: &[(&str, &str)] = &[
    (
        "summary",
        "select l_returnflag, l_linestatus, count(*), sum(l_quantity), sum(l_extendedprice * (1 - l_discount)),
           avg(l_extendedprice)
         from lineitem where l_shipdate <= date '1998-09-02' group by 1, 2 order by 1, 2",
    ),
    (
        "filter",
        "select sum(l_extendedprice * l_discount) from lineitem
         where l_shipdate >= date '1995-01-01' and l_shipdate < date '1996-01-01'
           and l_discount between 0.04 and 0.06 and l_quantity < 25",
    ),
    (
        "top-orders",
        "select l_orderkey, sum(l_extendedprice * (1 - l_discount)) as revenue, o_orderdate
         from customer join orders on c_custkey = o_custkey join lineitem on l_orderkey = o_orderkey
         where c_mktsegment = 'MACHINERY' and o_orderdate < date '1995-03-10' and l_shipdate > date '1995-03-10'
         group by l_orderkey, o_orderdate order by revenue desc, l_orderkey limit 10",
    ),
    (
        "by-nation",
        "select n_name, sum(l_extendedprice * (1 - l_discount)) as revenue
         from customer join orders on c_custkey = o_custkey join lineitem on l_orderkey = o_orderkey
         join supplier on l_suppkey = s_suppkey and c_nationkey = s_nationkey join nation on s_nationkey = n_nationkey
         join region on n_regionkey = r_regionkey
         where r_name = 'EUROPE' and o_orderdate >= date '1994-01-01' and o_orderdate < date '1996-01-01'
         group by n_name order by revenue desc",
    ),
    (
        "rank",
        "select * from (
           select n_name, c_name, sum(o_totalprice) as total,
                  rank() over (partition by n_name order by sum(o_totalprice) desc) as place
           from customer join orders on c_custkey = o_custkey join nation on c_nationkey = n_nationkey
           group by n_name, c_name) ranked
         where place <= 3 order by n_name, place, c_name",
    ),
];

/// Loads the tables into both and asks the questions.
pub fn run(servers: &Servers, options: &Options, folder: &Path, report: &mut Report) -> Result<(), String> {
    let data = folder.join("tpch");
    let made = Command::new("tpchgen-cli").args(["csv", "-s", "0.1", "--output-dir"]).arg(&data).output();
    if !made.is_ok_and(|o| o.status.success()) {
        report.note("analytics: skipped, tpchgen-cli is not installed (pip install tpchgen-cli)".to_owned());
        return Ok(());
    }
    for server in &servers.both {
        server.psql(SCHEMA)?;
        for table in TABLES {
            let sql = format!("\\copy {table} from '{}' csv header", data.join(format!("{table}.csv")).display());
            output(Command::new("psql").args(["-Xq", "-v", "ON_ERROR_STOP=1", "-c", &sql, &server.url]), server.name)?;
        }
        server.psql("analyze")?;
    }
    for (name, sql) in QUESTIONS {
        let answers = [servers.both[0].psql(sql)?, servers.both[1].psql(sql)?];
        if answers[0] != answers[1] {
            report.note(format!("analytics::{name}: the answers differ:\n{}\n{}", answers[0], answers[1]));
        }
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..options.rounds.max(3) {
            for (at, server) in servers.both.iter().enumerate() {
                times[at].push(server.milliseconds(sql)?);
            }
        }
        report.figure(format!("analytics::{name}/scale=0.1"), "ms", times.map(median), false);
    }
    Ok(())
}
