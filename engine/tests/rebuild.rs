//! Starts that read the logs: what of the segments' frames counts.

#[allow(dead_code, reason = "shared with tests that use the rest of it")]
mod support;

use net::reactor::FileJob;
use net::reactor::disk::{Disk, OsDisk};

use support::{Node, Running};

fn value(running: &Running, node: &Node, key: &[u8]) -> Option<Vec<u8>> {
    let shard = &running.cores[0].shard;
    let hash = shard.identity().secret.hash(key);
    shard.read(hash, key, node.time(), |record| record.value.to_vec()).0
}

/// Two segments were on their way to the disk. Of the first one a frame got lost, so that those of the second one, all of which are
/// there, are not part of the log; what they say must not be in the index, whatever had been read when that turned out.
#[test]
fn frames_in_a_segment_behind_a_cut_are_not_indexed() {
    let mut node = Node::new();
    let mut running = node.start();
    for key in 0..8u8 {
        running.put(&mut node, &[key], b"durable", None);
    }
    running.sync(&node);
    let segment_bytes = running.cores[0].shard.log().segment_bytes();
    let lost = running.cores[0].shard.log().staged();
    assert!(lost.0 < segment_bytes, "it stands in the first segment");
    let mut put = |key: &[u8]| {
        node.unix_ms += 1;
        let shard = &mut running.cores[0].shard;
        let hash = shard.identity().secret.hash(key);
        shard.put(hash, key, &vec![b'n'; 6_000], None, node.time()).expect("room");
    };
    (100..120u8).for_each(|key| put(&[key]));
    put(&[0]);
    running.cores[0].shard.seal_group().expect("room");
    assert!(running.cores[0].shard.log().staged().0 > segment_bytes, "the second segment has frames");
    drop(running);
    let first = node.settings.data_dir.join(&node.segments()[0]);
    let file = OsDisk.open(&first).unwrap();
    let bytes = bytes::Bytes::from_static(&[0; 64]);
    OsDisk.run(FileJob::WriteSync { file, offset: lost.0, bytes }).unwrap();

    let mut again = node.start();
    assert!(again.report.iter().any(|line| line.contains("torn tail")), "{:?}", again.report);
    for key in 0..8u8 {
        assert_eq!(value(&again, &node, &[key]).as_deref(), Some(&b"durable"[..]), "key {key}");
    }
    for key in 100..120u8 {
        assert_eq!(value(&again, &node, &[key]), None, "key {key}");
    }
    assert_eq!(again.cores[0].shard.store().entries(), 8);
    assert_eq!(node.segments().len(), 4, "the first segment, the new run's, and two spares: {:?}", node.segments());
}
