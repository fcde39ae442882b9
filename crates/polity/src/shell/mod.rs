//! `polity sql`: a small shell for those without psql.

pub mod tls;

use std::io::{IsTerminal, Read};

use clap::Args;
use comfy_table::{Table, presets};
use rustyline::error::ReadlineError;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::Outcome;

/// Arguments of `polity sql`.
#[derive(Args)]
pub struct Arguments {
    /// Where to connect: postgresql://user:password@host:port/database
    #[arg(env = "POLITY_URL", default_value = "postgresql://polity:polity@127.0.0.1:5433/polity")]
    url: String,
    /// Run these statements and end, instead of reading them
    #[arg(short, long, value_name = "SQL")]
    command: Option<String>,
    /// The certificate authority of the server, PEM; needed where the connection
    /// leaves this machine
    #[arg(long, value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
}

const HELP: &str = "\
Statements end with a semicolon and may span lines.
  \\d         tables and views
  \\d NAME    columns of a table
  \\?         this help
  \\q         leave (also Ctrl-D)";

const TABLES: &str = "SELECT table_name AS name, table_type AS type FROM information_schema.tables \
                      WHERE table_schema = 'public' ORDER BY 1";

/// Runs the shell.
pub fn run(arguments: Arguments) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config: Config = arguments.url.parse().map_err(|e| format!("{}: {e}", arguments.url))?;
    let client = runtime.block_on(connect(&config, arguments.ca.as_deref()))?;
    if let Some(sql) = arguments.command {
        return runtime.block_on(show(&client, &sql));
    }
    if !std::io::stdin().is_terminal() {
        let mut sql = String::new();
        std::io::stdin().read_to_string(&mut sql)?;
        return runtime.block_on(show(&client, &sql));
    }
    interact(&runtime, &client)
}

async fn connect(
    config: &Config,
    ca: Option<&std::path::Path>,
) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    match ca {
        Some(ca) => {
            let (client, connection) = config.connect(tls::Connector::new(ca)?).await.map_err(|e| describe(&e))?;
            tokio::spawn(drive(connection));
            Ok(client)
        }
        None => {
            let (client, connection) = config.connect(NoTls).await.map_err(|e| describe(&e))?;
            tokio::spawn(drive(connection));
            Ok(client)
        }
    }
}

async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        eprintln!("polity: {}", describe(&error));
    }
}

fn interact(runtime: &tokio::runtime::Runtime, client: &Client) -> Outcome {
    println!("Polity {}. Statements end with a semicolon; \\? for help, \\q to leave.", env!("CARGO_PKG_VERSION"));
    let mut editor = rustyline::DefaultEditor::new()?;
    let mut statement = String::new();
    loop {
        let line = match editor.readline(if statement.is_empty() { "polity> " } else { "     -> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                statement.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if statement.is_empty() && line.trim_start().starts_with('\\') {
            let _ = editor.add_history_entry(&line);
            match command(line.trim()) {
                Command::Quit => return Ok(()),
                Command::Say(text) => println!("{text}"),
                Command::Query(sql) => report(runtime.block_on(show(client, &sql))),
            }
            continue;
        }
        statement.push_str(&line);
        statement.push('\n');
        if line.trim_end().ends_with(';') {
            let _ = editor.add_history_entry(statement.trim());
            report(runtime.block_on(show(client, &statement)));
            statement.clear();
        } else if statement.trim().is_empty() {
            statement.clear();
        }
    }
}

fn report(outcome: Outcome) {
    if let Err(error) = outcome {
        eprintln!("{error}");
    }
}

enum Command {
    Quit,
    Say(String),
    Query(String),
}

fn command(line: &str) -> Command {
    match line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim())) {
        ("\\q", "") => Command::Quit,
        ("\\?", "") => Command::Say(HELP.to_owned()),
        ("\\d", "") => Command::Query(TABLES.to_owned()),
        ("\\d", name) => Command::Query(format!(
            "SELECT column_name AS name, data_type AS type, is_nullable AS nullable, column_default AS default \
             FROM information_schema.columns WHERE table_name = '{}' ORDER BY ordinal_position",
            name.replace('\'', "''")
        )),
        (word, _) => Command::Say(format!("There is no command {word}; \\? lists those there are.")),
    }
}

/// Runs statements and prints what they answer.
async fn show(client: &Client, sql: &str) -> Outcome {
    let messages = client.simple_query(sql).await.map_err(|e| describe(&e))?;
    let mut table: Option<Table> = None;
    let mut rows = 0;
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                let mut new = Table::new();
                new.load_style(presets::UTF8_FULL_CONDENSED);
                new.set_header(columns.iter().map(|c| c.name().to_owned()));
                (table, rows) = (Some(new), 0);
            }
            SimpleQueryMessage::Row(row) => {
                rows += 1;
                if let Some(table) = &mut table {
                    table.add_row((0..row.len()).map(|i| row.get(i).unwrap_or("∅").to_owned()));
                }
            }
            SimpleQueryMessage::CommandComplete(count) => match table.take() {
                Some(table) => println!("{table}\n({rows} row{})", if rows == 1 { "" } else { "s" }),
                None => println!("done ({count} row{})", if count == 1 { "" } else { "s" }),
            },
            _ => {}
        }
    }
    Ok(())
}

/// An error with the facts and the next step that the server gave.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else { return format!("{error}{}", source(error)) };
    let mut text = format!("{}: {} ({})", db.severity(), db.message(), db.code().code());
    for (label, part) in [("DETAIL", db.detail()), ("HINT", db.hint())] {
        if let Some(part) = part {
            text.push_str(&format!("\n{label}: {part}"));
        }
    }
    text
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, |cause| format!(": {cause}"))
}
