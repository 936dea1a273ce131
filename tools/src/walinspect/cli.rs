//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::filter::{Filter, KeyArg, key};
use super::text;

const EXIT_CODES: &str = "\
Exit codes:
  0  sound: nothing durable is damaged or missing
  1  wrong arguments, or a file cannot be read
  2  torn tail only: the last group was never acknowledged, the next start cuts it (verify, repair)
  3  corrupt, missing, misplaced, duplicate, foreign or newer: the node refuses to start from these files

Examples:
  walinspect verify /var/lib/godwit            is this log whole?
  walinspect dump /var/lib/godwit --follow     what is written, as it is written
  walinspect history /var/lib/godwit user:42   every record of a key
  walinspect diff sfo/ ams/                    which keys differ, who is ahead, why

Keys and values are percent-encoded: all but printable ASCII without space, %, = and @.
On a terminal results are tables, in a pipe lines with tabs, with --json one object a line.";

/// Looks into the logs of a Godwit node: offline, or beside the running daemon. Strictly read-only.
#[derive(Debug, Parser)]
#[command(name = "walinspect", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// One JSON object a line, each with "schema" and "type"
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the segments
    Ls(DirArgs),
    /// Print the records
    #[command(after_help = "\
Lines:
  VPUT key=value@version     a write
  VDEL key@version           a deletion: a tombstone
  VCTL kind fields@version   what nodes tell each other or themselves

Examples:
  walinspect dump data --prefix user: --since 2026-11-24T12:00 --until 2026-11-24T13:00
  walinspect dump data --key 'a%20key' --long
  walinspect dump data --follow --durable --json | jq .key")]
    Dump(DumpArgs),
    /// Check every byte that counts, and say what is wrong with the evidence
    Verify(VerifyArgs),
    /// Count: live ratio, sizes of groups, gaps between commits, per log and per origin
    Stats(AtArgs),
    /// Every record of one key, oldest first
    History(HistoryArgs),
    /// Compare the logs of two nodes: which keys differ, who is ahead, and why a key is absent
    Diff(DiffArgs),
    /// Who pins which segment
    Retention(RetentionArgs),
    /// What has to be done about what verify finds, and cutting damaged logs
    Repair(RepairArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  walinspect completions bash > /etc/bash_completion.d/walinspect")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, of walinspect or of one command
    #[command(after_help = "Example:\n  walinspect man verify | man -l -")]
    Man {
        /// Which command
        command: Option<String>,
    },
}

/// Only a directory.
#[derive(Clone, Debug, Args)]
pub(crate) struct DirArgs {
    /// The node's DATA_DIR
    pub(crate) dir: PathBuf,
}

/// A directory, seen at a time.
#[derive(Clone, Debug, Args)]
pub(crate) struct AtArgs {
    /// The node's DATA_DIR
    pub(crate) dir: PathBuf,
    /// When a record counts as expired, UTC [default: now]
    #[arg(long, value_name = "TIME", value_parser = text::parse_time)]
    pub(crate) at: Option<u64>,
}

/// What `dump` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct DumpArgs {
    /// The node's DATA_DIR
    pub(crate) dir: PathBuf,
    /// Go on as the daemon writes, until interrupted
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only what a later frame or a seal declares durable; otherwise a record may be shown that a power cut still loses
    #[arg(long)]
    pub(crate) durable: bool,
    /// Also print origin, core, run, segment, position and kind of frame
    #[arg(long, short)]
    pub(crate) long: bool,
    /// Print values whole, however long
    #[arg(long, conflicts_with = "value_bytes")]
    pub(crate) full: bool,
    /// Cut values behind this many bytes; JSON never cuts
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub(crate) value_bytes: usize,
    /// How often --follow looks for more, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=60_000), requires = "follow")]
    pub(crate) poll_ms: u32,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

/// What `verify` takes.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Classes:
  sound      a log that ends where it was left
  stale      the same, with old bytes of a recycled file behind the end
  unused     a file that holds no frame of a log
  open       a log that a running daemon writes
  torn       the last group was lost and was never acknowledged; the next start cuts it      exit 2
  gap        a file with durable frames is missing                                           exit 3
  misplaced  a frame or a file stands where another belongs                                  exit 3
  duplicate  two files claim one place                                                       exit 3
  foreign    another node's segment                                                          exit 3
  newer      written by a newer program                                                      exit 3
  corrupt    something that was durable is damaged                                           exit 3

Without a running daemon files are read around the page cache: what is judged is what the disk holds.")]
pub(crate) struct VerifyArgs {
    /// The node's DATA_DIR
    pub(crate) dir: PathBuf,
    /// Files that are read at once; each takes 64 MiB of memory [default: twice the CPUs, at most 16]
    #[arg(long, value_name = "COUNT")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Read everything once more without checking, before and after, and compare the speeds
    #[arg(long)]
    pub(crate) measure: bool,
}

/// What `history` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The node's DATA_DIR
    pub(crate) dir: PathBuf,
    /// The key, percent-encoded as it is shown
    #[arg(value_parser = key)]
    pub(crate) key: KeyArg,
    /// Print values whole, however long
    #[arg(long)]
    pub(crate) full: bool,
}

/// What `diff` takes.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Reasons for a key that one side does not have as the other:
  behind       its watermark of the log that wrote the record has not reached the record; both are named
  never-told   it has no watermark of that log at all
  own-lost     it originated the record itself and does not have it: its disk lost it
  diverged     its watermark covers the record, and the record is not there
  unknown-log  no open record here tells which run wrote it

Where a side has a record, its state is live, tombstone or expired; 'absent' means that it never saw the key.
Differences do not change the exit code.")]
pub(crate) struct DiffArgs {
    /// One node's DATA_DIR
    pub(crate) left: PathBuf,
    /// The other node's
    pub(crate) right: PathBuf,
    /// Only keys that begin so, percent-encoded
    #[arg(long, value_name = "PREFIX", value_parser = key)]
    pub(crate) prefix: Option<KeyArg>,
    /// At most so many keys; they are all counted
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub(crate) limit: usize,
    /// When a record counts as expired, UTC [default: now]
    #[arg(long, value_name = "TIME", value_parser = text::parse_time)]
    pub(crate) at: Option<u64>,
}

/// What `retention` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct RetentionArgs {
    /// The node's DATA_DIR
    pub(crate) dir: PathBuf,
    /// A member's DATA_DIR: has it passed each segment? May be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) peer: Vec<PathBuf>,
    /// When a record counts as expired, UTC [default: now]
    #[arg(long, value_name = "TIME", value_parser = text::parse_time)]
    pub(crate) at: Option<u64>,
}

/// What `repair` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct RepairArgs {
    /// The node's DATA_DIR
    pub(crate) dir: PathBuf,
    /// Only say what would be done
    #[arg(long, required_unless_present = "cut")]
    pub(crate) dry_run: bool,
    /// Give up what stands at and behind the damage in each damaged log, so that the node, which must be down, starts again and fetches from its
    /// peers what they have of it; the files as they were are kept beside it
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) cut: bool,
}
