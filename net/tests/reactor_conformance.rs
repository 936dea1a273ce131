//! The rules of `net::reactor`, held to by all three siblings: each test is one generic function.
#![allow(missing_docs, clippy::cast_possible_truncation, clippy::print_stdout)]

#[path = "reactor/rig.rs"]
mod rig;
#[path = "reactor/seccomp.rs"]
mod seccomp;

use std::io::ErrorKind;

use bytes::Bytes;
use net::reactor::{FileJob, Full, Io, Op, Outcome, ReactorConfig, Socket, StreamKind, Tag, Wait};

use rig::{Driver, EpollRig, Rig, SimRig, UringRig};

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod uring {
            use super::*;
            $(#[test] fn $name() {
                if let Some(rig) = UringRig::start(config(stringify!($name))) {
                    super::$name(&mut Driver::new(rig));
                }
            })*
        }
        mod epoll {
            use super::*;
            $(#[test] fn $name() {
                super::$name(&mut Driver::new(EpollRig::start(config(stringify!($name)))));
            })*
        }
        mod sim {
            use super::*;
            $(#[test] fn $name() {
                for seed in 0..8 {
                    super::$name(&mut Driver::new(SimRig::start(config(stringify!($name)), seed)));
                }
            })*
        }
    };
}

conformance!(
    many_connections_echo_random_sizes,
    cancel_ends_receive_and_accept_with_one_terminal_completion,
    a_cancelled_send_to_a_stuck_reader_ends,
    a_refused_connect_is_an_error,
    close_is_refused_until_nothing_is_in_flight,
    closing_with_unread_bytes_resets_the_peer,
    a_second_send_is_refused,
    a_send_of_many_runs_keeps_their_order,
    a_send_completes_whole_although_the_reader_is_slow,
    a_receive_without_buffers_ends_and_goes_on_after_rearming,
    a_full_reactor_hands_the_operation_back,
    reads_writes_and_syncs_work,
    file_jobs_work_and_report_errors,
    a_poll_ends_at_its_deadline,
    a_wake_ends_a_poll,
    a_taken_address_is_refused,
    unknown_handles_are_refused,
);

fn config(test: &str) -> ReactorConfig {
    match test {
        "a_receive_without_buffers_ends_and_goes_on_after_rearming" => {
            ReactorConfig { receive_buffers: 4, ..ReactorConfig::default() }
        }
        "a_full_reactor_hands_the_operation_back" => ReactorConfig { operations_max: 8, ..ReactorConfig::default() },
        _ => ReactorConfig::default(),
    }
}

/// Bytes that differ by position and by `salt`.
fn pattern(salt: u64, len: usize) -> Vec<u8> {
    let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn many_connections_echo_random_sizes<R: Rig>(driver: &mut Driver<R>) {
    const CONNECTIONS: u64 = 24;
    let (listener, address) = driver.listen();
    driver.submit(Op::Accept { listener }, Tag(1));
    let payloads: Vec<Vec<u8>> = (0..CONNECTIONS)
        .map(|index| {
            let len =
                if index == 0 { 4 << 20 } else { driver.rig.io().random() as usize % (1 << (8 + index % 12)) + 1 };
            pattern(index, len)
        })
        .collect();
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for index in 0..CONNECTIONS {
        driver.submit(Op::Connect { local: None, to: address, kind: StreamKind::Client }, Tag(100 + index));
    }
    for index in 0..CONNECTIONS {
        clients.push(driver.connected(Tag(100 + index)));
        servers.push(driver.accepted(Tag(1)));
    }
    for (index, client) in clients.iter().enumerate() {
        let tag = index as u64;
        driver.submit(Op::Recv { socket: *client }, Tag(200 + tag));
        driver.submit(Op::Recv { socket: servers[index] }, Tag(300 + tag));
        let runs = payloads[index].chunks(70_000).map(Bytes::copy_from_slice).collect();
        driver.submit(Op::Send { socket: *client, runs }, Tag(400 + tag));
    }
    let mut received = vec![Vec::new(); CONNECTIONS as usize];
    let mut owed: Vec<Vec<Bytes>> = vec![Vec::new(); CONNECTIONS as usize];
    let mut sending = vec![false; CONNECTIONS as usize];
    let mut total = 0;
    let wanted: usize = payloads.iter().map(Vec::len).sum();
    while total < wanted {
        for completion in driver.tick() {
            let Tag(tag) = completion.tag;
            let index = (tag % 100) as usize;
            match tag / 100 {
                2 | 3 => {
                    completion.result.unwrap();
                    let bytes = completion.buf.unwrap();
                    assert!(!bytes.is_empty(), "no stream ends here");
                    if tag / 100 == 2 {
                        received[index].extend_from_slice(&bytes);
                        total += bytes.len();
                    } else {
                        owed[index].push(Bytes::copy_from_slice(&bytes));
                    }
                    if !completion.more {
                        let socket = if tag / 100 == 2 { clients[index] } else { servers[index] };
                        driver.submit(Op::Recv { socket }, Tag(tag));
                    }
                }
                4 => assert!(matches!(completion.result, Ok(Outcome::Done))),
                5 => {
                    assert!(matches!(completion.result, Ok(Outcome::Done)));
                    sending[index] = false;
                }
                _ => panic!("unexpected completion {completion:?}"),
            }
        }
        for index in 0..servers.len() {
            if !sending[index] && !owed[index].is_empty() {
                sending[index] = true;
                let runs = std::mem::take(&mut owed[index]);
                driver.submit(Op::Send { socket: servers[index], runs }, Tag(500 + index as u64));
            }
        }
    }
    assert!(received == payloads, "every byte came back in order");
}

fn cancel_ends_receive_and_accept_with_one_terminal_completion<R: Rig>(driver: &mut Driver<R>) {
    let (listener, _) = driver.listen();
    driver.submit(Op::Accept { listener }, Tag(1));
    let (near, _far) = driver.pair();
    driver.submit(Op::Recv { socket: near }, Tag(2));
    driver.quiet();
    driver.rig.io().cancel(Tag(1));
    driver.rig.io().cancel(Tag(2));
    driver.rig.io().cancel(Tag(77));
    for tag in [Tag(1), Tag(2)] {
        let completion = driver.expect(tag);
        assert!(completion.is_cancelled() && !completion.more, "{completion:?}");
    }
    driver.quiet();
    driver.submit(Op::Close { socket: near }, Tag(3));
    assert!(matches!(driver.expect(Tag(3)).result, Ok(Outcome::Done)));
}

fn a_cancelled_send_to_a_stuck_reader_ends<R: Rig>(driver: &mut Driver<R>) {
    let (near, _far) = driver.pair();
    driver.submit(Op::Send { socket: near, runs: vec![Bytes::from(vec![7; 64 << 20])] }, Tag(1));
    driver.quiet();
    driver.rig.io().cancel(Tag(1));
    let completion = driver.expect(Tag(1));
    assert!(completion.is_cancelled() && !completion.more, "{completion:?}");
    driver.submit(Op::Close { socket: near }, Tag(2));
    assert!(matches!(driver.expect(Tag(2)).result, Ok(Outcome::Done)));
}

fn a_refused_connect_is_an_error<R: Rig>(driver: &mut Driver<R>) {
    let to = driver.rig.deaf_address();
    driver.submit(Op::Connect { local: None, to, kind: StreamKind::Replication }, Tag(1));
    let completion = driver.expect(Tag(1));
    assert_eq!(completion.result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(!completion.more);
}

fn close_is_refused_until_nothing_is_in_flight<R: Rig>(driver: &mut Driver<R>) {
    let (near, far) = driver.pair();
    driver.submit(Op::Recv { socket: near }, Tag(1));
    driver.submit(Op::Recv { socket: far }, Tag(2));
    driver.submit(Op::Close { socket: near }, Tag(3));
    assert_eq!(driver.expect(Tag(3)).result.unwrap_err().kind(), ErrorKind::InvalidInput);
    driver.rig.io().cancel(Tag(1));
    assert!(driver.expect(Tag(1)).is_cancelled());
    driver.submit(Op::Close { socket: near }, Tag(4));
    assert!(matches!(driver.expect(Tag(4)).result, Ok(Outcome::Done)));
    let end = driver.expect(Tag(2));
    assert!(matches!(end.result, Ok(Outcome::Data)) && !end.more);
    assert!(end.buf.unwrap().is_empty(), "the peer sees the end of the stream");
    // The handle is gone for good.
    driver.submit(Op::Recv { socket: near }, Tag(5));
    assert_eq!(driver.expect(Tag(5)).result.unwrap_err().kind(), ErrorKind::InvalidInput);
}

fn closing_with_unread_bytes_resets_the_peer<R: Rig>(driver: &mut Driver<R>) {
    let (near, far) = driver.pair();
    driver.submit(Op::Send { socket: near, runs: vec![Bytes::from_static(b"unread")] }, Tag(1));
    assert!(driver.expect(Tag(1)).result.is_ok());
    driver.submit(Op::Recv { socket: near }, Tag(2));
    driver.quiet();
    driver.submit(Op::Close { socket: far }, Tag(3));
    assert!(driver.expect(Tag(3)).result.is_ok());
    let completion = driver.expect(Tag(2));
    assert_eq!(completion.result.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!completion.more);
    driver.submit(Op::Send { socket: near, runs: vec![Bytes::from_static(b"late")] }, Tag(4));
    assert!(driver.expect(Tag(4)).result.is_err());
}

fn a_second_send_is_refused<R: Rig>(driver: &mut Driver<R>) {
    let (near, _far) = driver.pair();
    driver.submit(Op::Send { socket: near, runs: vec![Bytes::from(vec![1; 64 << 20])] }, Tag(1));
    driver.submit(Op::Send { socket: near, runs: vec![Bytes::from_static(b"x")] }, Tag(2));
    assert_eq!(driver.expect(Tag(2)).result.unwrap_err().kind(), ErrorKind::InvalidInput);
}

fn a_send_of_many_runs_keeps_their_order<R: Rig>(driver: &mut Driver<R>) {
    let (near, far) = driver.pair();
    let bytes = pattern(3, 300_000);
    let mut runs: Vec<Bytes> = Vec::new();
    for (index, chunk) in bytes.chunks(97).enumerate() {
        runs.push(Bytes::copy_from_slice(chunk));
        if index % 5 == 0 {
            runs.push(Bytes::new());
        }
    }
    driver.submit(Op::Send { socket: near, runs }, Tag(1));
    assert!(driver.receive(far, Tag(2), bytes.len()) == bytes);
    assert!(matches!(driver.expect(Tag(1)).result, Ok(Outcome::Done)));
    driver.submit(Op::Send { socket: near, runs: vec![Bytes::new()] }, Tag(3));
    assert!(matches!(driver.expect(Tag(3)).result, Ok(Outcome::Done)));
}

fn a_send_completes_whole_although_the_reader_is_slow<R: Rig>(driver: &mut Driver<R>) {
    const LEN: usize = 32 << 20;
    let (near, far) = driver.pair();
    let bytes = pattern(5, LEN);
    driver.submit(Op::Send { socket: near, runs: vec![Bytes::from(bytes.clone())] }, Tag(1));
    driver.quiet();
    assert!(driver.receive(far, Tag(2), LEN) == bytes);
    assert!(matches!(driver.expect(Tag(1)).result, Ok(Outcome::Done)));
}

fn a_receive_without_buffers_ends_and_goes_on_after_rearming<R: Rig>(driver: &mut Driver<R>) {
    const LEN: usize = 1 << 20;
    let (near, far) = driver.pair();
    let bytes = pattern(6, LEN);
    driver.submit(Op::Send { socket: near, runs: vec![Bytes::from(bytes.clone())] }, Tag(1));
    let mut got = Vec::new();
    let mut starved = 0;
    while got.len() < LEN {
        driver.submit(Op::Recv { socket: far }, Tag(2));
        let mut held = Vec::new();
        loop {
            let completion = driver.expect(Tag(2));
            if completion.is_out_of_buffers() {
                assert!(!completion.more && completion.buf.is_none());
                starved += 1;
                break;
            }
            completion.result.as_ref().unwrap();
            let lease = completion.buf.unwrap();
            got.extend_from_slice(&lease);
            held.push(lease);
            assert!(held.len() <= 4, "there are four buffers");
            if got.len() == LEN || !completion.more {
                break;
            }
        }
    }
    assert!(starved > 0);
    assert!(got == bytes, "nothing is lost");
}

fn a_full_reactor_hands_the_operation_back<R: Rig>(driver: &mut Driver<R>) {
    let file = driver.prepare("full", 4096);
    for tag in 0..8 {
        driver.submit(Op::Read { file: file.clone(), offset: 0, len: 16 }, Tag(tag));
    }
    let op = Op::Write { file: file.clone(), offset: 9, bytes: Bytes::from_static(b"abc"), dsync: true };
    match driver.rig.io().submit(op, Tag(9)) {
        Err((Op::Write { offset: 9, bytes, dsync: true, .. }, Full)) => assert_eq!(&bytes[..], b"abc"),
        other => panic!("expected Full, got {other:?}"),
    }
    for tag in 0..8 {
        assert_eq!(driver.expect(Tag(tag)).buf.unwrap().len(), 16);
    }
    driver.submit(Op::Sync { file, range: Some(0..16) }, Tag(9));
    assert!(matches!(driver.expect(Tag(9)).result, Ok(Outcome::Done)));
}

fn reads_writes_and_syncs_work<R: Rig>(driver: &mut Driver<R>) {
    let file = driver.prepare("data", 8192);
    let bytes = pattern(8, 3000);
    for (tag, dsync) in [(1, false), (2, true)] {
        let op = Op::Write { file: file.clone(), offset: tag * 3000, bytes: bytes.clone().into(), dsync };
        driver.submit(op, Tag(tag));
        assert!(matches!(driver.expect(Tag(tag)).result, Ok(Outcome::Done)));
    }
    driver.submit(Op::Sync { file: file.clone(), range: None }, Tag(3));
    assert!(matches!(driver.expect(Tag(3)).result, Ok(Outcome::Done)));
    for (offset, len, want) in [(3000, 3000, bytes.clone()), (6000, 100, bytes[..100].to_vec())] {
        driver.submit(Op::Read { file: file.clone(), offset, len }, Tag(4));
        let completion = driver.expect(Tag(4));
        assert!(matches!(completion.result, Ok(Outcome::Data)) && !completion.more);
        assert_eq!(&completion.buf.unwrap()[..], &want[..]);
    }
    // Past the end: short, then empty. (The second write ended at 9000.)
    for (offset, len) in [(8990, 10), (9000, 0), (1 << 40, 0)] {
        driver.submit(Op::Read { file: file.clone(), offset, len: 4096 }, Tag(5));
        assert_eq!(driver.expect(Tag(5)).buf.unwrap().len(), len);
    }
}

fn file_jobs_work_and_report_errors<R: Rig>(driver: &mut Driver<R>) {
    let (first, second) = (driver.rig.path("first"), driver.rig.path("second"));
    let head = Bytes::from_static(b"head");
    let prepare = |path: &std::path::Path| FileJob::Prepare { path: path.into(), len: 1 << 20, head: head.clone() };
    let file = driver.opened(prepare(&first));
    let error = driver.job(prepare(&first)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let bytes = pattern(9, 5000);
    let job = FileJob::WriteSync { file: file.clone(), offset: 4096, bytes: bytes.clone().into() };
    assert!(matches!(driver.job(job), Ok(Outcome::Done)));
    assert!(matches!(driver.job(FileJob::Rename { from: first.clone(), to: second.clone() }), Ok(Outcome::Done)));
    let missing = driver.job(FileJob::Open { path: first.clone() }).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(driver.job(FileJob::Unlink { path: first.clone() }).unwrap_err().kind(), ErrorKind::NotFound);
    let rename = FileJob::Rename { from: first, to: second.clone() };
    assert_eq!(driver.job(rename).unwrap_err().kind(), ErrorKind::NotFound);
    let again = driver.opened(FileJob::Open { path: second.clone() });
    for (offset, len, want) in [(0, 4, 4), (4096, 5000, 5000), ((1 << 20) - 10, 4096, 10), (1 << 21, 10, 0)] {
        let Ok(Outcome::Bulk(got)) = driver.job(FileJob::ReadBulk { file: again.clone(), offset, len }) else {
            panic!("bulk read failed")
        };
        assert_eq!(got.len(), want);
        if offset == 4096 {
            assert_eq!(&got[..], &bytes[..]);
        }
        if offset == 0 {
            assert_eq!(&got[..], b"head");
        }
    }
    assert!(matches!(driver.job(FileJob::Warm { file: again.clone() }), Ok(Outcome::Done)));
    let huge = FileJob::ReadBulk { file: again, offset: 0, len: u32::MAX };
    assert_eq!(driver.job(huge).unwrap_err().kind(), ErrorKind::InvalidInput);
    // Used again: a new head, the old body.
    let recycle = |len| FileJob::Recycle { path: second.clone(), len, head: Bytes::from_static(b"new head") };
    assert_eq!(driver.job(recycle(1 << 19)).unwrap_err().kind(), ErrorKind::InvalidInput);
    let recycled = driver.opened(recycle(1 << 20));
    let Ok(Outcome::Bulk(got)) = driver.job(FileJob::ReadBulk { file: recycled, offset: 0, len: 9096 }) else {
        panic!("bulk read failed")
    };
    assert!(got.starts_with(b"new head") && got[4096..] == bytes[..]);
    assert!(matches!(driver.job(FileJob::Unlink { path: second.clone() }), Ok(Outcome::Done)));
    assert_eq!(driver.job(recycle(1 << 20)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(driver.job(FileJob::Open { path: second }).unwrap_err().kind(), ErrorKind::NotFound);
}

fn a_poll_ends_at_its_deadline<R: Rig>(driver: &mut Driver<R>) {
    driver.quiet();
    let start = driver.rig.io().now();
    let mut out = Vec::new();
    while driver.rig.io().now() < start.plus_ms(30) {
        driver.rig.poll(Wait::Until(start.plus_ms(30)), &mut out);
    }
    assert!(out.is_empty());
    let late = driver.rig.io().now().since(start.plus_ms(30));
    assert!(late < 2_000_000_000, "{late} ns late");
}

fn a_wake_ends_a_poll<R: Rig>(driver: &mut Driver<R>) {
    driver.quiet();
    for _ in 0..3 {
        let waker = driver.rig.io().waker();
        let start = driver.rig.io().now();
        let thread = driver.rig.is_threaded().then(|| {
            let waker = waker.clone();
            std::thread::spawn(move || waker.wake())
        });
        if thread.is_none() {
            waker.wake();
        }
        let mut out = Vec::new();
        driver.rig.poll(Wait::Until(start.plus_ms(60_000)), &mut out);
        let waited = driver.rig.io().now().since(start);
        assert!(waited < 30_000_000_000, "the wake was lost: waited {waited} ns");
        if let Some(thread) = thread {
            thread.join().unwrap();
        }
    }
}

fn a_taken_address_is_refused<R: Rig>(driver: &mut Driver<R>) {
    let address = driver.rig.address();
    let first = driver.rig.io().listen(address, StreamKind::Client, true).unwrap();
    let bound = driver.rig.io().local_addr(first).unwrap();
    assert_ne!(bound.port(), 0);
    driver.rig.io().listen(bound, StreamKind::Client, true).expect("loops of one process share");
    let error = driver.rig.io().listen(bound, StreamKind::Client, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

fn unknown_handles_are_refused<R: Rig>(driver: &mut Driver<R>) {
    let nobody = Socket(12_345);
    driver.submit(Op::Recv { socket: nobody }, Tag(1));
    driver.submit(Op::Send { socket: nobody, runs: vec![Bytes::from_static(b"x")] }, Tag(2));
    driver.submit(Op::Close { socket: nobody }, Tag(3));
    driver.submit(Op::Accept { listener: net::reactor::Listener(99) }, Tag(4));
    for tag in 1..=4 {
        let completion = driver.expect(Tag(tag));
        assert_eq!(completion.result.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert!(driver.rig.io().local_addr(net::reactor::Listener(99)).is_err());
}
