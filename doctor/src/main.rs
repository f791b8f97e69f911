//! The command `healthz-doctor`: arguments, files, exit status.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use healthz_doctor::report::{self, Report};
use healthz_doctor::rules::{self, Severity};
use healthz_doctor::tree::{MAX_BYTES, Refusal};
use healthz_doctor::{Options, Prober, check, page};
use lexopt::{Arg, ValueExt};

const HELP: &str = "\
Names what makes a health endpoint of an Envoy configuration lie to its prober.

healthz-doctor [OPTIONS] FILE...     YAML or JSON: a bootstrap, or a saved /config_dump; - is standard input

  --prober NAME         google-http2 | google-https | google-http | alb-http1 | alb-grpc | kubelet
                        what this prober cannot do becomes an error, what it does not need is silent
  --host NAME           the Host that the prober sends; an address if not said
  --max-detection SECS  how long a hang may take to be found: 15 if not said
  --fail-on LEVEL       error (default) | warning | note | never
  --format FORMAT       text (default) | json | github
  --ignore ID           leave a rule out; in the file, on the line of the finding or the one above:
                        # doctor: ignore HZ107 why
  --explain ID          what a rule means and what was measured; all: the whole page
  --help, --version

Exit status: 0 nothing at or above --fail-on; 1 something; 2 a file was not checked: it cannot be read,
is no Envoy configuration, or has no health endpoint in it.
";

/// What is printed of the findings.
#[derive(Clone, Copy)]
enum Format {
    Text,
    Json,
    Github,
}

/// What the command is to do.
enum Command {
    Print(String),
    Check(Job),
}

struct Job {
    files: Vec<String>,
    options: Options,
    /// Nothing: never.
    fail_on: Option<Severity>,
    format: Format,
}

fn main() -> ExitCode {
    let command = match arguments() {
        Ok(command) => command,
        Err(error) => {
            eprintln!("healthz-doctor: {error}\nhealthz-doctor --help says what it takes");
            return ExitCode::from(2);
        }
    };
    let (text, status) = match command {
        Command::Print(text) => (text, 0),
        Command::Check(job) => run(&job),
    };
    // A reader that went away has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::from(status)
}

/// Checks all files; what is to be printed, and the exit status.
fn run(job: &Job) -> (String, u8) {
    let mut reports = Vec::new();
    let mut status = 0;
    for file in &job.files {
        match read(file).and_then(|text| check(file, &text, &job.options)) {
            Ok(report) => {
                let fails = job.fail_on.is_some_and(|level| {
                    report.findings.iter().any(|found| found.severity >= level)
                });
                status = status.max(u8::from(fails));
                reports.push(report);
            }
            Err(refusal) => {
                eprintln!("healthz-doctor: {file}: {refusal}");
                status = 2;
            }
        }
    }
    let text = match job.format {
        Format::Text => reports
            .iter()
            .map(Report::text)
            .collect::<Vec<_>>()
            .join("\n"),
        Format::Github => reports.iter().map(Report::github).collect(),
        Format::Json => format!("{:#}\n", report::json(&reports)),
    };
    (text, status)
}

/// A file's text, or more than [`check`] takes, but not much more.
fn read(file: &str) -> Result<Vec<u8>, Refusal> {
    let most = MAX_BYTES as u64 + 1;
    let mut text = Vec::new();
    let result = match file {
        "-" => io::stdin().take(most).read_to_end(&mut text),
        file => File::open(file).and_then(|file| file.take(most).read_to_end(&mut text)),
    };
    match result {
        Ok(_) => Ok(text),
        Err(error) => Err(Refusal(format!("cannot be read: {error}"))),
    }
}

fn arguments() -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut job = Job {
        files: Vec::new(),
        options: Options::default(),
        fail_on: Some(Severity::Error),
        format: Format::Text,
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Print(HELP.to_owned())),
            Arg::Long("version") | Arg::Short('V') => {
                return Ok(Command::Print(
                    concat!("healthz-doctor ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
                ));
            }
            Arg::Long("explain") => return explain(&parser.value()?.string()?).map(Command::Print),
            Arg::Long("prober") => {
                let name = parser.value()?.string()?;
                let prober =
                    Prober::of(&name).ok_or_else(|| format!("no prober is called {name:?}"))?;
                job.options.prober = Some(prober);
            }
            Arg::Long("host") => job.options.host = Some(parser.value()?.string()?),
            Arg::Long("max-detection") => job.options.max_detection = parser.value()?.parse()?,
            Arg::Long("ignore") => {
                let ids = parser.value()?.string()?;
                for id in ids.split(',') {
                    job.options.ignore.push(rule(id)?.id.to_owned());
                }
            }
            Arg::Long("fail-on") => job.fail_on = level(&parser.value()?.string()?)?,
            Arg::Long("format") => job.format = format_of(&parser.value()?.string()?)?,
            Arg::Value(file) => job.files.push(file.string()?),
            other => return Err(other.unexpected()),
        }
    }
    if job.files.is_empty() {
        return Err("no file is named".into());
    }
    Ok(Command::Check(job))
}

fn explain(id: &str) -> Result<String, lexopt::Error> {
    if id == "all" {
        return Ok(page::page());
    }
    rule(id).map(page::explain)
}

fn rule(id: &str) -> Result<&'static rules::Rule, lexopt::Error> {
    let found = rules::all().find(|rule| rule.id.eq_ignore_ascii_case(id));
    found.ok_or_else(|| format!("there is no rule {id:?}").into())
}

fn level(name: &str) -> Result<Option<Severity>, lexopt::Error> {
    match name {
        "error" => Ok(Some(Severity::Error)),
        "warning" => Ok(Some(Severity::Warning)),
        "note" => Ok(Some(Severity::Note)),
        "never" => Ok(None),
        other => {
            Err(format!("--fail-on takes error, warning, note or never, not {other:?}").into())
        }
    }
}

fn format_of(name: &str) -> Result<Format, lexopt::Error> {
    match name {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        "github" => Ok(Format::Github),
        other => Err(format!("--format takes text, json or github, not {other:?}").into()),
    }
}
