//! A given number of groups of 64 records of 128 bytes, for counting instructions: `benches/instructions` runs it.

use std::error::Error;

use benches::{Appender, Writer, mapped_files, value_of_record};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(what), Some(groups)) = (arguments.next(), arguments.next()) else {
        return Err("usage: append log|shard GROUPS".into());
    };
    let groups: u32 = groups.parse()?;
    let value = value_of_record(128);
    match what.as_str() {
        "log" => {
            let mut appender = Appender::new(mapped_files()?);
            for _ in 0..groups {
                appender.group(&value);
            }
        }
        "shard" => {
            let mut writer = Writer::new(mapped_files()?, &value);
            for _ in 0..groups {
                writer.group(&value);
            }
        }
        other => return Err(format!("append: no {other:?} to measure; log or shard").into()),
    }
    Ok(())
}
