//! `repair`: what would have to be done, and [`cut`], which does it.

use super::cli::RepairArgs;
use super::cut;
use super::error::{EXIT_SOUND, InspectError};
use super::load::Loaded;
use super::note;
use super::output::{Output, Rows};
use super::verdict::{Action, Finding};
use super::verify::{FindingJson, optional};

/// Prints the plan; the exit code is that of `verify`.
pub(crate) fn run(args: &RepairArgs, output: &mut Output) -> Result<u8, InspectError> {
    if args.cut {
        let cuts = cut::run(&args.dir)?;
        note(match cuts {
            0 => "nothing is damaged, and nothing was cut",
            _ => {
                "start the node, then run `godwit repair` there until it finds nothing more, and `godwit verify`: what only this disk had is \
                 lost, and until then other nodes should not rely on what this one has"
            }
        });
        return Ok(EXIT_SOUND);
    }
    let mut loaded = Loaded::each(&args.dir, |_| Ok(()))?;
    let identity = loaded.identity_finding();
    loaded.judgement.findings.extend(identity);
    let mut rows = Rows::new("", &["class", "file", "range", "plan", "evidence"], &[]);
    for finding in &loaded.judgement.findings {
        let Some(plan) = plan(finding) else { continue };
        if output.is_json() {
            output.json("repair", &FindingJson::new(finding, Some(&plan)))?;
            continue;
        }
        rows.push(vec![
            finding.class.to_string(),
            optional(finding.file.as_deref()),
            optional(finding.range.map(|range| range.describe())),
            plan,
            finding.evidence.clone(),
        ]);
    }
    if rows.is_empty() {
        if !output.is_json() {
            note("nothing is to be done");
        }
    } else {
        output.table(&rows)?;
    }
    output.flush()?;
    Ok(loaded.judgement.worst().exit_code())
}

/// What would be done; `None` if nothing has to be.
pub(crate) fn plan(finding: &Finding) -> Option<String> {
    let file = finding.file.as_deref().unwrap_or("the file");
    let range = finding.range.map_or_else(|| "all of it".to_owned(), |range| range.describe());
    Some(match &finding.action {
        Action::Nothing => return None,
        Action::Cut { removed } => {
            let also = match &removed[..] {
                [] => String::new(),
                removed => format!(", and remove {}", removed.join(", ")),
            };
            format!("cut: seal {file} in front of {range}{also}; the next start does it, members refill what they hold")
        }
        Action::Remove => format!("remove {file}; the next start does it"),
        Action::Refill => {
            let whole = match (finding.resumes, finding.range) {
                (Some(resumes), Some(_)) => {
                    format!("; frames are intact again from {resumes} on, if their chain holds")
                }
                _ => String::new(),
            };
            format!(
                "refill {file}, {range}, from a member that holds these versions{whole}: `repair --cut`, then `godwit repair`; or wipe this node and \
                 refill it"
            )
        }
        Action::Restore { name } if finding.log.is_none() && name == "NODE" => {
            "restore NODE from a backup; without it the logs have no owner, and the node must be wiped and refilled"
                .to_owned()
        }
        Action::Restore { name } => {
            format!("restore {name} from a backup, or refill {range} from a member; or wipe this node and refill it")
        }
        Action::Rename { name } => {
            format!("rename {file} to {name}, if that name is free; if it is taken, one of the two is a copy")
        }
        Action::MoveAway => format!("move {file} out of the directory, to where it came from"),
        Action::Upgrade => "start the newer program that wrote it; change nothing".to_owned(),
    })
}
