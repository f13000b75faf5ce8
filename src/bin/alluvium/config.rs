//! `config`: every setting there is, and whether a file of settings would be taken.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alluvium::config::{KeyDoc, ParsedConfig};
use alluvium::{ConfigError, LogConfig};
use serde_json::{Map, Value, json};

use crate::Outcome;

/// No sane file of settings is longer, and a device never ends.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// One JSON object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say whether a file of Java properties is valid, what it changes, and what of it is ignored. Exit 1 when it is
    /// refused.
    Check {
        /// The file; `-` is standard input.
        file: PathBuf,
    },
}

pub(crate) fn run(args: &Args) -> Outcome {
    let out = BufWriter::new(io::stdout().lock());
    let Some(Action::Check { file }) = &args.action else {
        if args.json {
            describe_json(out)?;
        } else {
            describe_text(out)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let verdict = LogConfig::from_kafka_properties(&text_of(file)?);
    if args.json {
        print_json(out, &verdict)?;
    } else {
        print_text(out, &verdict)?;
    }
    Ok(if verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

#[expect(clippy::disallowed_methods, reason = "a file of the user's, outside every log")]
fn text_of(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    let bytes = read.map_err(|error| format!("{}: {error}", path.display()))?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(format!("{} is longer than {FILE_BYTES_MAX} bytes; name a file of properties", path.display()));
    }
    Ok(text)
}

fn describe_text(mut out: impl Write) -> io::Result<()> {
    let keys = LogConfig::describe();
    let width = |text: fn(&KeyDoc) -> usize| keys.iter().map(text).max().unwrap_or_default();
    let (names, kinds) = (width(|key| key.name.len()), width(|key| key.kind().len()));
    let defaults = width(|key| key.default.len());
    writeln!(out, "{:<names$}  {:<kinds$}  {:<defaults$}  VALUES", "KEY", "TYPE", "DEFAULT")?;
    for key in keys {
        let (name, kind, default) = (key.name, key.kind(), key.default);
        writeln!(out, "{name:<names$}  {kind:<kinds$}  {default:<defaults$}  {}", key.values)?;
        writeln!(out, "    {}", key.doc)?;
        if !key.synonyms.is_empty() {
            let also: Vec<&str> = key.synonyms.iter().map(|synonym| synonym.name).collect();
            writeln!(out, "    A broker's: {}", also.join(", "))?;
        }
    }
    out.flush()
}

fn describe_json(mut out: impl Write) -> io::Result<()> {
    for key in LogConfig::describe() {
        let synonyms: Vec<&str> = key.synonyms.iter().map(|synonym| synonym.name).collect();
        let line = json!({
            "key": key.name, "type": key.kind(), "default": key.default, "values": key.values.to_string(),
            "doc": key.doc, "synonyms": synonyms, "kafka": !key.is_ours(),
        });
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// The settings that differ from their defaults.
fn changed(config: &LogConfig) -> Vec<(&'static str, String)> {
    config
        .entries()
        .zip(LogConfig::default().entries())
        .filter(|(now, before)| now != before)
        .map(|(now, _)| now)
        .collect()
}

fn print_text(mut out: impl Write, verdict: &Result<ParsedConfig, ConfigError>) -> io::Result<()> {
    match verdict {
        Ok(parsed) => {
            let changed = changed(&parsed.config);
            for (key, value) in &changed {
                writeln!(out, "set      {key} = {value}")?;
            }
            for ignored in &parsed.ignored {
                writeln!(out, "ignored  {}: {}", ignored.key, ignored.reason)?;
            }
            writeln!(out, "valid: {} settings differ from their defaults", changed.len())?;
        }
        Err(error) => writeln!(out, "refused: {error}")?,
    }
    out.flush()
}

fn print_json(mut out: impl Write, verdict: &Result<ParsedConfig, ConfigError>) -> io::Result<()> {
    let line = match verdict {
        Ok(parsed) => {
            let settings: Map<String, Value> =
                parsed.config.entries().map(|(key, value)| (key.to_owned(), value.into())).collect();
            let ignored: Vec<Value> = parsed
                .ignored
                .iter()
                .map(|ignored| {
                    json!({ "key": ignored.key, "value": ignored.value, "reason": ignored.reason.to_string() })
                })
                .collect();
            json!({ "valid": true, "settings": settings, "ignored": ignored })
        }
        Err(error) => json!({ "valid": false, "key": error.key(), "error": error.to_string() }),
    };
    writeln!(out, "{line}")?;
    out.flush()
}
