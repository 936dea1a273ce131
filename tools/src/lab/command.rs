//! What can be done to the links of a lab with network stacks: on its standard input, or from another terminal.

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::region;

/// A region by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Name {
    /// San Francisco
    Sfo,
    /// New York
    Nyc,
    /// Amsterdam
    Ams,
}

impl Name {
    fn index(self) -> usize {
        match self {
            Name::Sfo => 0,
            Name::Nyc => 1,
            Name::Ams => 2,
        }
    }
}

/// Links: between two regions, of one, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct Ends {
    /// A region; without any, all links
    from: Option<Name>,
    /// Its neighbour; without one, all links of the region
    to: Option<Name>,
    /// Only what travels from the first to the second; of one region, only what it sends
    #[arg(long, requires = "from")]
    one_way: bool,
}

/// As [`Ends`], but at least one region is named.
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct RegionEnds {
    /// A region
    from: Name,
    /// Its neighbour; without one, all links of the region
    to: Option<Name>,
    /// Only what travels from the first to the second; of one region, only what it sends
    #[arg(long)]
    one_way: bool,
}

/// As [`Ends`], but both regions are named.
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct Pair {
    /// A region
    from: Name,
    /// Its neighbour
    to: Name,
    /// Only what travels from the first to the second
    #[arg(long)]
    one_way: bool,
}

impl From<RegionEnds> for Ends {
    fn from(RegionEnds { from, to, one_way }: RegionEnds) -> Ends {
        Ends { from: Some(from), to, one_way }
    }
}

impl From<Pair> for Ends {
    fn from(Pair { from, to, one_way }: Pair) -> Ends {
        Ends { from: Some(from), to: Some(to), one_way }
    }
}

impl Ends {
    /// Every direction that is meant, as origin and destination.
    pub(crate) fn directions(&self) -> impl Iterator<Item = (usize, usize)> {
        let (from, to, one_way) = (self.from.map(Name::index), self.to.map(Name::index), self.one_way);
        let all = (0..region::COUNT).flat_map(|source| (0..region::COUNT).map(move |target| (source, target)));
        let meant = move |source: usize, target: usize| {
            from.is_none_or(|from| from == source) && to.is_none_or(|to| to == target)
        };
        all.filter(move |(source, target)| {
            source != target && (meant(*source, *target) || !one_way && meant(*target, *source))
        })
    }
}

/// A command to a running lab.
#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Action {
    /// Cut links of a running lab: packets vanish without a trace, also those under way
    Cut {
        /// Which
        #[command(flatten)]
        ends: RegionEnds,
    },
    /// Heal links of a running lab
    Heal {
        /// Which
        #[command(flatten)]
        ends: Ends,
    },
    /// Lose a part of the packets between two regions of a running lab
    Loss {
        /// Between which
        #[command(flatten)]
        pair: Pair,
        /// Percent, such as 0.5; 0 ends it
        #[arg(value_parser = percent)]
        percent: f64,
    },
    /// Limit the rate between two regions of a running lab
    Rate {
        /// Between which
        #[command(flatten)]
        pair: Pair,
        /// Mbit/s in each direction; 0 ends the limit
        #[arg(value_parser = mbit)]
        mbit: f64,
        /// What may wait for its turn in each direction; more is dropped
        #[arg(long, value_name = "KB", default_value_t = 2_000)]
        buffer_kb: u32,
    },
    /// Show the links of a running lab and what became of their packets
    Links,
}

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.trim_end_matches('%').parse().map_err(|_| "a number of percent is wanted".to_owned())?;
    if (0.0..=100.0).contains(&number) { Ok(number) } else { Err("0 to 100 percent can be lost".to_owned()) }
}

fn mbit(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "a number of Mbit/s is wanted".to_owned())?;
    let possible = number == 0.0 || (0.001..=100_000.0).contains(&number);
    if possible { Ok(number) } else { Err("0, or 0.001 to 100000 Mbit/s".to_owned()) }
}

/// A command as a line of standard input.
#[derive(Debug, Parser)]
#[command(
    name = "",
    no_binary_name = true,
    disable_help_flag = true,
    help_template = "{subcommands}",
    subcommand_help_heading = "Commands"
)]
struct Line {
    #[command(subcommand)]
    action: Action,
}

impl Action {
    /// Reads a line such as `cut sfo ams`.
    ///
    /// # Errors
    /// What is wrong with it, or the help that it asks for, as text.
    pub fn parse(line: &str) -> Result<Action, String> {
        let parsed = Line::try_parse_from(line.split_whitespace());
        parsed.map(|line| line.action).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// The links that it is about.
    pub(crate) fn ends(&self) -> Ends {
        match self {
            Action::Cut { ends } => ends.clone().into(),
            Action::Heal { ends } => ends.clone(),
            Action::Loss { pair, .. } | Action::Rate { pair, .. } => pair.clone().into(),
            Action::Links => Ends::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directions(line: &str) -> Vec<(usize, usize)> {
        Action::parse(line).expect("a command").ends().directions().collect()
    }

    #[test]
    fn a_command_means_both_directions_unless_it_says_otherwise() {
        assert_eq!(directions("cut sfo ams"), [(0, 2), (2, 0)]);
        assert_eq!(directions("cut ams sfo --one-way"), [(2, 0)]);
        assert_eq!(directions("cut nyc"), [(0, 1), (1, 0), (1, 2), (2, 1)]);
        assert_eq!(directions("cut nyc --one-way"), [(1, 0), (1, 2)]);
        assert_eq!(directions("heal").len(), 6);
        assert_eq!(directions("heal sfo nyc"), [(0, 1), (1, 0)]);
        assert_eq!(directions("  loss nyc ams 0.5% "), [(1, 2), (2, 1)]);
        assert_eq!(directions("links").len(), 6);
        assert_eq!(directions("cut sfo sfo"), []);
    }

    #[test]
    fn numbers_are_read_and_checked() {
        let loss = |line: &str| match Action::parse(line) {
            Ok(Action::Loss { percent, .. }) => Some(percent),
            _ => None,
        };
        assert_eq!(loss("loss sfo ams 0.5"), Some(0.5));
        assert_eq!(loss("loss sfo ams 100"), Some(100.0));
        for refused in ["loss sfo ams 101", "loss sfo ams -1", "loss sfo ams x", "loss sfo ams NaN", "loss sfo 3"] {
            assert_eq!(loss(refused), None, "{refused}");
        }
        let rate = |line: &str| match Action::parse(line) {
            Ok(Action::Rate { mbit, buffer_kb, .. }) => Some((mbit, buffer_kb)),
            _ => None,
        };
        assert_eq!(rate("rate sfo ams 100"), Some((100.0, 2_000)));
        assert_eq!(rate("rate sfo ams 0.5 --buffer-kb 64"), Some((0.5, 64)));
        for refused in ["rate sfo ams inf", "rate sfo ams -5", "rate sfo ams 1e-9", "rate sfo ams 1 --buffer-kb x"] {
            assert_eq!(rate(refused), None, "{refused}");
        }
    }

    #[test]
    fn a_wrong_line_is_answered_with_what_is_wrong() {
        let answer = |line: &str| Action::parse(line).expect_err("wrong");
        assert!(answer("cut sfo lhr").contains("lhr"), "{}", answer("cut sfo lhr"));
        assert!(answer("cutt sfo").contains("cut"), "{}", answer("cutt sfo"));
        assert!(answer("help").contains("heal"), "{}", answer("help"));
        assert!(answer("cut").contains("<FROM>"), "{}", answer("cut"));
    }

    #[test]
    fn what_the_socket_carries_reads_back() {
        for line in ["cut ams", "heal", "loss sfo ams 0.1", "rate sfo nyc 20 --one-way", "links"] {
            let action = Action::parse(line).expect("a command");
            let text = serde_json::to_string(&action).expect("JSON");
            assert_eq!(serde_json::from_str::<Action>(&text).expect("an action"), action);
        }
    }
}
