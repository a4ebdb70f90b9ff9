//! The command line, as clap reads it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::observe::logging;

/// An authenticating egress proxy for AI agents: a request goes in with no credential
/// and arrives with one.
#[derive(Debug, Parser)]
#[command(name = "cupbearer", version, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = "Exit status: 0 done, 1 it ran and failed, 2 nothing was started (bad arguments or config).\n\
    `run` ends with the command's own status, 128+n for a signal.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Args)]
pub(super) struct Global {
    /// The config file; else $CUPBEARER_CONFIG, ./proxy.toml, $XDG_CONFIG_HOME/cupbearer/proxy.toml, /etc/cupbearer/proxy.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// How log lines are written; text on a terminal, json else
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(super) log: Option<LogFormat>,
    /// Say more (-vv: still more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

impl From<LogFormat> for logging::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show one agent request served with a token that the agent never saw; no account, no server
    Demo(Demo),
    /// Serve the proxy of the config file
    Serve,
    /// Run one command behind a proxy of its own
    Run(Run),
    /// Print the environment that leads a program through a running proxy
    Env(Env),
    /// Read the config and print every problem with its line
    Check(Check),
    /// Say what would happen to a request, and why; sends nothing
    Explain(Explain),
    /// Log in as a human for a credential: in a browser, or on another device
    Login(Login),
    /// Give a login back to its server and forget it
    Logout(Logout),
    /// The local certificate authority
    #[command(subcommand)]
    Ca(Ca),
    /// Agents and their keys
    #[command(subcommand)]
    Agent(Agent),
    /// The state of each token of a running proxy; never the token
    #[command(subcommand)]
    Token(Token),
    /// Print a completion script
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Show the proof and end: 0 if it holds, 1 if not
    #[arg(long)]
    pub(super) once: bool,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Which agent of the config the command is; needed where there are several
    #[arg(long, value_name = "NAME")]
    pub(super) agent: Option<String>,
    /// Leave JAVA_TOOL_OPTIONS alone (a JVM prints a line about it to stderr)
    #[arg(long)]
    pub(super) no_java: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(super) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(super) struct Env {
    /// The shell to print for
    #[arg(long, default_value = "sh", conflicts_with = "json")]
    pub(super) shell: EnvShell,
    /// Print a JSON object instead; null: to be removed
    #[arg(long)]
    pub(super) json: bool,
    /// Which agent of the config; needed where there are several
    #[arg(long, value_name = "NAME")]
    pub(super) agent: Option<String>,
    /// Read the agent's key from this file; else from $CUPBEARER_AGENT_KEY
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// Set JAVA_TOOL_OPTIONS too (a JVM prints a line about it to stderr)
    #[arg(long)]
    pub(super) java: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum EnvShell {
    Sh,
    Fish,
    Powershell,
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Also fetch one token for each credential
    #[arg(long)]
    pub(super) online: bool,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// GET, POST, …; CONNECT explains a tunnel to the URL's host
    pub(super) method: http::Method,
    pub(super) url: String,
    /// Who asks; needed where there are several agents
    #[arg(long, value_name = "NAME")]
    pub(super) agent: Option<String>,
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Login {
    pub(super) credential: String,
    /// Show a code to be entered on any device; needs no browser here
    #[arg(long)]
    pub(super) device: bool,
    /// Only print the URL
    #[arg(long)]
    pub(super) no_browser: bool,
    /// A parameter of the authorization request, such as `prompt=consent`; may repeat
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub(super) params: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct Logout {
    pub(super) credential: String,
}

fn parameter(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write NAME=VALUE"),
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Ca {
    /// Print the authority's name, validity and fingerprint
    Show,
    /// Print the root certificate as PEM: what clients must trust
    Export,
    /// Make a new authority; the old one is kept as `ca.previous`
    Rotate,
}

#[derive(Debug, Subcommand)]
pub(super) enum Agent {
    /// Make a key and print the config lines that hold its hash
    New { name: String },
    /// List the agents of the config
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// One line for each credential
    List {
        #[arg(long)]
        json: bool,
    },
    /// All that can be told of one
    Show {
        credential: String,
        #[arg(long)]
        json: bool,
    },
    /// Get a new token now
    Refresh { credential: String },
}
