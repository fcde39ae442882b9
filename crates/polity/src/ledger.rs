//! `polity ledger`: the ledger of the byzantine tables, its validators and its authors.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use comfy_table::{Table, presets};
use polity_base::seams::{Entropy as _, unique_id};
use polity_base::{Bounds, ColumnChange, ColumnId, Key, NodeId, RowChange, Type};
use polity_bft::genesis::Genesis;
use polity_bft::hash::{hex, unhex};
use polity_bft::ledger::records;
use polity_bft::signing::SecretKey;
use polity_bft::transaction::{Body, Operation, SignedTransaction};
use polity_bft::types::Height;
use polity_node::admin::{Answer, LedgerFacts, Request};
use polity_node::entropy::SystemEntropy;
use polity_sql::ledger::proving;

use crate::Outcome;
use crate::admin::{Admin, Asked, Failure, unexpected};
use crate::proof::said;

/// Arguments of `polity ledger`.
pub type Arguments = Asked<What>;

/// What to do with the ledger.
#[derive(Subcommand)]
pub enum What {
    /// Show how far each node is, who decides, and who is heard
    Status,
    /// Write what the ledger began with: what proofs are checked against. Publish it, or
    /// its hash, where those who check can find it
    Genesis {
        /// Where to write it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Keys of authors who sign for themselves
    #[command(subcommand)]
    Key(KeyCommand),
    /// Sign a change of one row with your own key, and have it ordered
    Submit {
        /// The file with your key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        #[command(subcommand)]
        change: RowCommand,
    },
    /// Change who decides: every validator that is reached approves
    #[command(subcommand)]
    Validator(ValidatorCommand),
}

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a key
    New {
        /// Where to write it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Let a key act for a user
    Register {
        /// The user
        user: String,
        /// The file with the key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// From now on nodes may not sign for the user any more
        #[arg(long)]
        exclusive: bool,
    },
}

#[derive(Subcommand)]
pub enum RowCommand {
    /// Add a row
    Insert {
        /// The table
        table: String,
        /// Its columns: name=value
        #[arg(required = true)]
        columns: Vec<String>,
    },
    /// Change a row
    Update {
        /// The table
        table: String,
        /// The values of its primary key
        #[arg(required = true)]
        row: Vec<String>,
        /// Columns to set: name=value
        #[arg(long, value_name = "NAME=VALUE")]
        set: Vec<String>,
        /// Columns to add to: name=number
        #[arg(long, value_name = "NAME=NUMBER", allow_hyphen_values = true)]
        add: Vec<String>,
    },
    /// Remove a row
    Delete {
        /// The table
        table: String,
        /// The values of its primary key
        #[arg(required = true)]
        row: Vec<String>,
    },
}

#[derive(Subcommand)]
pub enum ValidatorCommand {
    /// Let a node decide too
    Add {
        /// The node's number
        node: u64,
        /// Its voting power
        #[arg(long, default_value_t = 1)]
        power: u64,
    },
    /// Let a node decide no more
    Remove {
        /// The node's number
        node: u64,
    },
    /// Change a node's voting power
    Power {
        /// The node's number
        node: u64,
        /// Its voting power from then on
        power: u64,
    },
}

/// For so many heights a transaction may wait.
const WAIT_HEIGHTS: u64 = 256;
/// What a file with a key begins with.
const KEY_FILE: &str = "polity ledger key 1 ";

/// Runs one of the commands.
pub fn run(arguments: Arguments) -> Outcome {
    if let What::Key(KeyCommand::New { out }) = &arguments.what {
        return new_key(out);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let admin = Admin::new(&arguments.admin)?;
        match arguments.what {
            What::Status => status(&admin).await,
            What::Genesis { out } => {
                let (bytes, genesis) = genesis(&admin).await?;
                std::fs::write(&out, &bytes).map_err(|e| format!("{}: {e}", out.display()))?;
                println!("ledger {}, {} bytes in {}", genesis.ledger(), bytes.len(), out.display());
                Ok(())
            }
            What::Key(KeyCommand::New { .. }) => Ok(()),
            What::Key(KeyCommand::Register { user, key, exclusive }) => {
                let key = read_key(&key)?.public().encode();
                println!("{}", admin.command(&Request::Register { user, key, exclusive }).await?);
                Ok(())
            }
            What::Submit { key, change } => submit(&admin, &read_key(&key)?, &change).await,
            What::Validator(change) => approve(&admin, &change).await,
        }
    })
}

fn new_key(out: &Path) -> Outcome {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut seed = [0; 32];
    SystemEntropy::default().fill(&mut seed);
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(out);
    let mut file = file.map_err(|e| format!("{}: {e}", out.display()))?;
    writeln!(file, "{KEY_FILE}{}", hex(&seed))?;
    println!("key {} in {}", hex(&SecretKey::from_seed(seed).public().encode()), out.display());
    Ok(())
}

fn read_key(path: &Path) -> Result<SecretKey, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let seed = text.trim().strip_prefix(KEY_FILE).and_then(unhex);
    let seed = seed.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    Ok(SecretKey::from_seed(seed.ok_or_else(|| format!("{}: no key of an author", path.display()))?))
}

async fn genesis(admin: &Admin) -> Result<(Vec<u8>, Genesis), Failure> {
    match admin.ask(&Request::LedgerGenesis).await? {
        Answer::Genesis(bytes) => {
            let genesis = Genesis::decode(&bytes).map_err(|e| format!("the node's genesis cannot be read: {e}"))?;
            Ok((bytes, genesis))
        }
        other => Err(unexpected(other)),
    }
}

async fn facts(admin: &Admin) -> Result<LedgerFacts, Failure> {
    match admin.ask(&Request::LedgerStatus).await? {
        Answer::Ledger(facts) => Ok(*facts),
        other => Err(unexpected(other)),
    }
}

async fn status(admin: &Admin) -> Outcome {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["node", "height", "state root", "power", "hears", "remarks"]);
    for (node, answer) in admin.ask_all(&Request::LedgerStatus).await? {
        let row = match answer {
            Ok(Answer::Ledger(facts)) => {
                let own = facts.validators.iter().find(|validator| validator.node == node);
                let total: u64 = facts.validators.iter().map(|validator| validator.power).sum();
                let remarks = [facts.lies.map(|how| format!("lies: {how}")), facts.stopped];
                [
                    node.0.to_string(),
                    facts.height.to_string(),
                    facts.newest.map_or_else(String::new, |(_, root)| hex(&root[..8])),
                    own.map_or_else(|| "follows".to_owned(), |own| own.power.to_string()),
                    format!("{} of {total}, needs {}", facts.present, facts.needed),
                    remarks.into_iter().flatten().collect::<Vec<_>>().join("; "),
                ]
            }
            Ok(Answer::Refused(why) | Answer::Later(why)) | Err(why) => {
                let none = String::new;
                [node.0.to_string(), none(), none(), none(), none(), why]
            }
            Ok(other) => return Err(format!("node {} answered {other:?}", node.0).into()),
        };
        table.add_row(row);
    }
    println!("{table}");
    Ok(())
}

async fn approve(admin: &Admin, change: &ValidatorCommand) -> Outcome {
    let (node, power) = match *change {
        ValidatorCommand::Add { node, power } | ValidatorCommand::Power { node, power } => (node, power),
        ValidatorCommand::Remove { node } => (node, 0),
    };
    let before = facts(admin).await?;
    let key = before.validators.iter().find(|validator| validator.node == NodeId(node)).map(|v| v.key.clone());
    let deciding = |who: &NodeId| before.validators.iter().any(|validator| validator.node == *who);
    let request = Request::Approve { node: NodeId(node), key, power };
    for (who, answer) in admin.ask_where(&request, |who| deciding(&who)).await? {
        match answer {
            Ok(Answer::Done(_)) => println!("node {} approves", who.0),
            // Those before were enough.
            Ok(Answer::Already(_)) => {}
            Ok(Answer::Refused(why) | Answer::Later(why)) | Err(why) => println!("node {}: {why}", who.0),
            Ok(other) => return Err(format!("node {} answered {other:?}", who.0).into()),
        }
    }
    let after = facts(admin).await?;
    let now = after.validators.iter().find(|validator| validator.node == NodeId(node)).map_or(0, |v| v.power);
    match now == power {
        true => println!("node {node} has a power of {power} from height {} on", after.height + 1),
        false => println!("node {node} has a power of {now}; a change takes effect two heights after enough approved"),
    }
    Ok(())
}

async fn submit(admin: &Admin, key: &SecretKey, change: &RowCommand) -> Outcome {
    let (_, genesis) = genesis(admin).await?;
    let tables = admin.ledger_tables().await?;
    let (key_of_row, change) = row_change(&tables, change)?;
    let height = facts(admin).await?.height;
    let body = Body {
        ledger: genesis.ledger(),
        author: key.public(),
        user: None,
        nonce: unique_id(&SystemEntropy::default()),
        expires: Height(height + WAIT_HEIGHTS.min(genesis.parameters.lifetime / 2)),
        preconditions: Vec::new(),
        operations: vec![Operation::Row { key: key_of_row, change }],
    };
    let signed = SignedTransaction::sign(body, key).map_err(|e| e.to_string())?;
    println!("{}", admin.command(&Request::Order(signed.encode().to_vec())).await?);
    Ok(())
}

type Tables = [(polity_base::IndexId, records::Table)];

fn row_change(tables: &Tables, command: &RowCommand) -> Result<(Key, RowChange), Failure> {
    let (RowCommand::Insert { table, .. } | RowCommand::Update { table, .. } | RowCommand::Delete { table, .. }) =
        command;
    let found = tables.iter().find(|(_, known)| known.definition.name == *table).map(|(_, table)| table);
    let key = |row: &[String]| proving::row_key(tables, table, row).map(|(_, key)| key).map_err(|e| said(&e));
    let known = || found.ok_or_else(|| format!("the ledger has no table \"{table}\""));
    match command {
        RowCommand::Delete { row, .. } => Ok((key(row)?, RowChange::Delete)),
        RowCommand::Update { row, set, add, .. } => {
            let mut columns = assignments(known()?, set)?;
            for pair in add {
                let (id, r#type, value) = column(known()?, pair)?;
                columns
                    .push((id, addition(&r#type, value).ok_or_else(|| format!("{pair}: no number of type {type}"))?));
            }
            Ok((key(row)?, RowChange::Update(columns)))
        }
        RowCommand::Insert { columns, .. } => {
            let table = known()?;
            let given = assignments(table, columns)?;
            let text = |id: &ColumnId| {
                let pair = columns.iter().find(|pair| column(table, pair).is_ok_and(|(known, ..)| known == *id));
                pair.and_then(|pair| pair.split_once('=')).map(|(_, value)| value.to_owned())
            };
            let row: Option<Vec<String>> = table.definition.key.iter().map(text).collect();
            let row = row.ok_or("all columns of the primary key are needed")?;
            Ok((key(&row)?, RowChange::Insert(given)))
        }
    }
}

/// Adding so much to a column; none if that is no number of its type.
fn addition(r#type: &Type, value: &str) -> Option<ColumnChange> {
    Some(match r#type {
        Type::Numeric(_) => ColumnChange::AddNumeric(value.parse().ok()?),
        _ => ColumnChange::Add { amount: value.parse().ok()?, bounds: Bounds::default() },
    })
}

fn assignments(table: &records::Table, pairs: &[String]) -> Result<Vec<(ColumnId, ColumnChange)>, Failure> {
    let assignment = |pair: &String| {
        let (id, r#type, value) = column(table, pair)?;
        let value = proving::value(value, &r#type).map_err(|e| said(&e))?;
        Ok((id, ColumnChange::Set(value)))
    };
    pairs.iter().map(assignment).collect()
}

/// The column that `name=value` names, its type, and the value.
fn column<'p>(table: &records::Table, pair: &'p str) -> Result<(ColumnId, Type, &'p str), Failure> {
    let (name, value) = pair.split_once('=').ok_or_else(|| format!("{pair}: not name=value"))?;
    let column = table.definition.columns.iter().find(|column| column.name == name);
    let column = column.ok_or_else(|| format!("table \"{}\" has no column \"{name}\"", table.definition.name))?;
    Ok((column.id, proving::type_of(table, column.id), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_and_read_and_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        new_key(&file).unwrap();
        let key = read_key(&file).unwrap();
        assert!(new_key(&file).is_err());
        assert_eq!(read_key(&file).unwrap().public(), key.public());
        std::fs::write(&file, "something else").unwrap();
        assert!(read_key(&file).is_err());
    }
}
