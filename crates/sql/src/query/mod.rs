//! SELECT and whatever else reads.
//!
//! ```text
//!   syntax tree ──▶ bind      names, types and functions by PostgreSQL's rules
//!                    │        (what comes out needs no coercion any more)
//!                    ▼
//!               logical plan  optimised once, kept while the catalog stands
//!                    │        parameters and the time of day still open
//!                    ▼
//!                  run        parameters filled in, physical plan, batches
//!                    │
//!                    ▼
//!                  rows       pulled bit by bit
//! ```
//! DataFusion optimises and executes; what SQL *means* is decided here. Its
//! own SQL front end follows other rules (types of literals, division, labels,
//! error texts), so statements are bound by [`bind`] instead.
//!
//! | module       | holds                                                        |
//! |--------------|--------------------------------------------------------------|
//! | [`types`]    | SQL types and values as Arrow types and arrays, and back     |
//! | [`numeric`]  | numbers that carry their own scale, in columns               |
//! | [`scan`]     | stored tables: key ranges, decoding, parallel reading        |
//! | [`bind`]     | what names, types and functions mean                         |
//! | [`function`] | functions and operators, as PostgreSQL has them              |
//! | [`planner`]  | making plans, and what all of them share                     |
//! | [`sorted`]   | orders that aggregates take over from subqueries             |
//! | [`run`]      | running plans                                                |
//! | [`subplan`]  | subqueries that are run row by row                           |
//! | [`watched`]  | ending a plan that runs                                      |
//! | [`scalar`]   | one expression over given rows                               |
//! | `sequence`   | a sequence as a table of one row                             |
//! | [`spill`]    | temporary files of queries, sealed                           |
//! | [`system`]   | the system catalogs as tables                                |
//! | [`errors`]   | DataFusion's errors in PostgreSQL's words                    |

pub mod bind;
mod errors;
pub mod function;
pub mod numeric;
mod planner;
pub mod run;
mod scalar;
pub mod scan;
mod sequence;
mod sorted;
mod spill;
mod subplan;
pub mod system;
pub mod types;
mod watched;

pub use self::planner::Planner;
pub use self::scalar::Scalar;

use std::sync::Arc;

use datafusion::sql::sqlparser::ast;
use polity_base::{TableId, Type, Value};
use polity_txn::View;

use crate::catalog::Catalog;
use crate::error::Result;
use crate::rights::Need;
use crate::session::activity::Sessions;
use crate::session::context::Context;
use crate::session::settings::Settings;
use crate::session::{Column, Engine, SequenceMemory, Watch};

/// What a statement is planned against.
#[derive(Clone)]
pub struct PlanInput {
    /// The catalog it sees
    pub catalog: Arc<Catalog>,
    /// The session's settings
    pub settings: Settings,
    /// Who asks
    pub user: String,
    /// Who is there
    pub sessions: Arc<Sessions>,
    /// A table that shows the key of each row as the column `__polity_key`
    /// (`bytea`), which `*` does not include
    pub expose_key: Option<TableId>,
}

impl PlanInput {
    /// What the statement that runs in `context` is planned against.
    pub fn of(context: &Context<'_>) -> PlanInput {
        PlanInput {
            catalog: context.catalog.clone(),
            settings: context.settings.clone(),
            user: context.user.to_owned(),
            sessions: context.engine.sessions().clone(),
            expose_key: None,
        }
    }
}

/// A statement that was planned. It can be run any number of times, as long as
/// the catalog and the settings it was planned against stand.
pub struct Planned {
    /// Types of the parameters `$1`, `$2`, …
    pub parameters: Vec<Type>,
    /// What the rows consist of
    pub columns: Arc<[Column]>,
    /// What it does with tables and views, but for the one that shows its keys: who runs
    /// it sees to it that the user may
    pub needs: Arc<[Need]>,
    work: Arc<planner::Work>,
}

impl std::fmt::Debug for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.work.plan.display_indent())
    }
}

/// What EXPLAIN shows of a statement.
#[derive(Default)]
pub struct Explained {
    /// How it is run: a line per step, indented by two spaces per level
    pub plan: Vec<String>,
    /// How many rows it gave, if it was run
    pub rows: Option<usize>,
    /// How long that took to plan
    pub planning: Option<std::time::Duration>,
    /// And to run
    pub execution: Option<std::time::Duration>,
}

/// What a run has at hand besides its view.
#[derive(Clone)]
pub struct RunEnv {
    /// The catalog, as the plan's
    pub catalog: Arc<Catalog>,
    /// Who asks
    pub user: String,
    /// The number of the session
    pub session: u32,
    /// `now()`, in microseconds since 1970 UTC
    pub transaction_time: i64,
    /// Tells whether to end
    pub watch: Watch,
    /// What sessions share
    pub engine: Arc<Engine>,
    /// What the session remembers of sequences
    pub sequences: SequenceMemory,
    /// Whether its transaction writes nothing
    pub read_only: bool,
}

impl RunEnv {
    /// What the statement that runs in `context` has at hand.
    pub fn of(context: &Context<'_>) -> RunEnv {
        RunEnv {
            catalog: context.catalog.clone(),
            user: context.user.to_owned(),
            session: context.session,
            transaction_time: context.transaction_time,
            watch: context.watch.clone(),
            engine: context.engine.clone(),
            sequences: context.sequences.clone(),
            read_only: context.txn.is_read_only(),
        }
    }
}

/// Plans a query and gives all its rows, with what they consist of.
pub async fn rows_of(
    planner: &Planner,
    input: &PlanInput,
    statement: &ast::Statement,
    parameters: &[Value],
    parameter_types: &[Option<Type>],
    view: &View,
    env: RunEnv,
) -> Result<(Arc<[Column]>, Vec<Vec<Value>>)> {
    let planned = planner.plan(input, statement, parameter_types)?;
    let rows = planner.rows(&planned, parameters, view, env).await?;
    Ok((planned.columns, rows))
}
