//! Streams, and what happens to them.

use std::io::ErrorKind;

use super::*;

#[test]
fn one_seed_gives_one_trace() {
    let run = |seed| {
        let mut pair = Pair::new(seed);
        pair.world.set_loss(ip(A), ip(B), 50_000);
        let (near, far) = pair.connect(StreamKind::Replication);
        pair.submit(B, Op::Recv { socket: far }, 3);
        for tag in 10..40 {
            pair.send(A, near, &vec![7; 50_000], tag);
            assert!(pair.expect(A, tag).result.is_ok());
        }
        pair.run_ms(60_000);
        assert_eq!(pair.world.bytes_between(ip(A), ip(B)), 30 * 50_000);
        assert_eq!(pair.world.bytes_between(ip(B), ip(A)), 0);
        pair.world.trace_hash()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn connecting_takes_a_round_trip() {
    let mut pair = Pair::new(3);
    pair.world.set_delay(ip(A), ip(B), 37 * MS);
    pair.world.set_delay(ip(B), ip(A), 40 * MS);
    let before = pair.world.now();
    pair.connect(StreamKind::Replication);
    let took = pair.world.now().since(before);
    assert!((77 * MS..90 * MS).contains(&took), "{took}");
}

#[test]
fn bytes_wait_behind_a_cut_and_arrive_late_and_in_order() {
    let mut pair = Pair::new(4);
    let (near, far) = pair.connect(StreamKind::Client);
    pair.submit(B, Op::Recv { socket: far }, 3);
    pair.world.cut(ip(A), ip(B));
    pair.send(A, near, b"first", 4);
    assert!(pair.expect(A, 4).result.is_ok(), "the kernel takes them");
    pair.send(A, near, b"second", 5);
    // The other way is open.
    pair.submit(A, Op::Recv { socket: near }, 6);
    pair.send(B, far, b"back", 7);
    assert_eq!(&*pair.expect(A, 6).buf.unwrap(), b"back");
    pair.run_ms(20_000);
    assert!(pair.seen[B].iter().all(|completion| completion.tag != Tag(3)));
    let healed = pair.world.now();
    pair.world.heal(ip(A), ip(B));
    let mut got = Vec::new();
    while got.len() < 11 {
        got.extend_from_slice(&pair.expect(B, 3).buf.unwrap());
    }
    assert_eq!(got, b"firstsecond");
    assert!(pair.world.now().since(healed) >= 50 * MS);
}

#[test]
fn a_connect_across_a_cut_times_out() {
    let mut pair = Pair::new(5);
    let listener = pair.loops[B].listen(port_of(B), StreamKind::Replication, false).unwrap();
    pair.submit(B, Op::Accept { listener }, 1);
    pair.world.cut(ip(B), ip(A));
    pair.submit(A, Op::Connect { local: None, to: port_of(B), kind: StreamKind::Replication }, 2);
    assert_eq!(pair.expect(A, 2).result.unwrap_err().kind(), ErrorKind::TimedOut);
    // Nobody is there at all.
    pair.submit(A, Op::Connect { local: None, to: "10.9.9.9:1".parse().unwrap(), kind: StreamKind::Replication }, 3);
    assert_eq!(pair.expect(A, 3).result.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn a_mesh_stream_to_a_dead_peer_times_out() {
    let mut pair = Pair::new(6);
    let (near, _) = pair.connect(StreamKind::Replication);
    pair.submit(A, Op::Recv { socket: near }, 3);
    pair.world.crash(pair.nodes[B]);
    pair.run_ms(60_000);
    assert!(pair.seen[A].is_empty(), "an idle stream notices nothing");
    let before = pair.world.now();
    pair.send(A, near, b"swallowed", 4);
    assert!(pair.expect(A, 4).result.is_ok());
    assert_eq!(pair.expect(A, 3).result.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(pair.world.now().since(before) >= 10_000 * MS);
}

#[test]
fn a_restarted_peer_answers_with_a_reset() {
    let mut pair = Pair::new(7);
    let (near, _) = pair.connect(StreamKind::Client);
    pair.submit(A, Op::Recv { socket: near }, 3);
    pair.world.crash(pair.nodes[B]);
    pair.send(A, near, b"swallowed", 4);
    pair.run_ms(30_000);
    assert!(pair.seen[A].iter().all(|completion| completion.tag != Tag(3)));
    pair.loops[B] = SimIo::new(&pair.world, pair.nodes[B]);
    assert_eq!(pair.expect(A, 3).result.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // And nobody listens yet.
    pair.submit(A, Op::Connect { local: None, to: port_of(B), kind: StreamKind::Client }, 5);
    assert_eq!(pair.expect(A, 5).result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// Runs for a while, then takes what `tag` received: all bytes, and the error if there was one.
fn received(pair: &mut Pair, side: usize, tag: u64) -> (Vec<u8>, Option<ErrorKind>) {
    let (mut bytes, mut error) = (Vec::new(), None);
    for completion in std::mem::take(&mut pair.seen[side]) {
        if completion.tag != Tag(tag) {
            pair.seen[side].push(completion);
            continue;
        }
        match completion.result {
            Ok(_) => bytes.extend_from_slice(&completion.buf.unwrap()),
            Err(failed) => error = Some(failed.kind()),
        }
    }
    (bytes, error)
}

#[test]
fn a_reset_comes_at_any_byte_and_one_end_may_learn_it_late() {
    let payload: Vec<u8> = (0..100_000u32).map(|at| (at * 7 + at / 251) as u8).collect();
    let (mut mid_segment, mut late, mut unaware) = (0, 0, 0);
    for seed in 0..60 {
        let mut pair = Pair::new(seed);
        assert!(!pair.world.reset_random_stream());
        pair.world.set_delay(ip(A), ip(B), 20 * MS);
        pair.world.set_delay(ip(B), ip(A), 20 * MS);
        let (near, far) = pair.connect(StreamKind::Replication);
        pair.submit(A, Op::Recv { socket: near }, 3);
        pair.submit(B, Op::Recv { socket: far }, 4);
        pair.send(A, near, &payload, 5);
        pair.run_ms(1);
        assert!(pair.world.reset_random_stream());
        assert!(!pair.world.reset_random_stream(), "it is over");
        pair.run_ms(1);
        let at_once = [A, B].map(|side| received(&mut pair, side, 3 + side as u64));
        pair.run_ms(100);
        let later = [A, B].map(|side| received(&mut pair, side, 3 + side as u64));
        for (now, then) in at_once.iter().zip(&later) {
            assert!(now.1.is_none() || (then.0.is_empty() && then.1.is_none()), "nothing comes after the error");
            late += u32::from(now.1.is_none());
        }
        let got = [&at_once[B].0[..], &later[B].0].concat();
        assert_eq!(got, payload[..got.len()], "a prefix, byte by byte");
        mid_segment += u32::from(got.len() > 1460 && got.len() < payload.len());
        // Whoever does not know yet learns it by sending.
        let ends = [near, far];
        for side in [A, B] {
            if at_once[side].1.or(later[side].1).is_none() {
                unaware += 1;
                pair.send(side, ends[side], b"hello", 9);
                pair.run_ms(100);
                assert_eq!(received(&mut pair, side, 3 + side as u64).1, Some(ErrorKind::ConnectionReset));
            }
        }
    }
    assert!(mid_segment > 10 && late > 10 && unaware > 3, "{mid_segment} {late} {unaware}");
}

#[test]
fn jitter_spreads_arrivals_and_keeps_their_order() {
    let mut pair = Pair::new(20);
    pair.world.set_jitter(ip(A), ip(B), 80 * MS);
    let (near, far) = pair.connect(StreamKind::Replication);
    pair.submit(B, Op::Recv { socket: far }, 3);
    let mut trips = Vec::new();
    for turn in 0..60u8 {
        let before = pair.world.now();
        pair.send(A, near, &[turn], 4);
        let got = pair.expect(B, 3);
        assert_eq!(&*got.buf.unwrap(), [turn]);
        trips.push(pair.world.now().since(before) / MS);
        pair.expect(A, 4);
    }
    assert!(trips.iter().any(|ms| *ms < 15) && trips.iter().any(|ms| (50..=90).contains(ms)), "{trips:?}");
    assert!(trips.iter().all(|ms| *ms <= 90), "{trips:?}");
}

#[test]
fn streams_survive_the_heaviest_loss() {
    for seed in 0..10 {
        let mut pair = Pair::new(seed);
        pair.world.set_loss(ip(A), ip(B), 400_000);
        pair.world.set_loss(ip(B), ip(A), 400_000);
        let listener = pair.loops[B].listen(port_of(B), StreamKind::Replication, false).unwrap();
        pair.submit(B, Op::Accept { listener }, 1);
        let near = loop {
            // With such loss a connect may run into its timeout.
            pair.submit(A, Op::Connect { local: None, to: port_of(B), kind: StreamKind::Replication }, 2);
            if let Ok(Outcome::Connected(near)) = pair.expect(A, 2).result {
                break near;
            }
        };
        pair.run_ms(30_000);
        let far = pair.seen[B].drain(..).filter_map(|done| match done.result {
            Ok(Outcome::Accepted(far, peer)) => Some((far, peer)),
            _ => None,
        });
        let (far, _) = far.last().unwrap();
        pair.submit(B, Op::Recv { socket: far }, 3);
        let mut got = Vec::new();
        for turn in 0..40 {
            pair.send(A, near, &vec![turn; 10_000], 4);
            assert!(pair.expect(A, 4).result.is_ok());
        }
        pair.run_ms(60_000);
        let (bytes, error) = received(&mut pair, B, 3);
        got.extend_from_slice(&bytes);
        assert_eq!((got.len(), error), (400_000, None));
        assert!(got.is_sorted());
    }
}

#[test]
fn a_duplicated_syn_is_a_stream_that_only_the_server_knows() {
    let mut pair = Pair::new(21);
    pair.world.set_duplication(1_000_000);
    let (near, far) = pair.connect(StreamKind::Replication);
    let Ok(Outcome::Accepted(ghost, peer)) = pair.expect(B, 1).result else { panic!("no twin") };
    assert_ne!(ghost, far);
    assert_eq!(peer.ip(), ip(A));
    for (socket, tag) in [(far, 3), (ghost, 4)] {
        pair.submit(B, Op::Recv { socket }, tag);
    }
    pair.run_ms(60_000);
    assert!(pair.seen[B].is_empty(), "it is silent");
    pair.send(B, ghost, b"hello", 5);
    assert_eq!(pair.expect(B, 4).result.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // The real one is as good as any.
    pair.send(A, near, b"hello", 6);
    assert_eq!(&*pair.expect(B, 3).buf.unwrap(), b"hello");
}

#[test]
fn a_long_cut_ends_a_mesh_stream_at_both_ends_one_way_or_both() {
    for (there, back) in [(true, true), (true, false), (false, true)] {
        let mut pair = Pair::new(22);
        let (near, far) = pair.connect(StreamKind::Replication);
        pair.submit(A, Op::Recv { socket: near }, 3);
        pair.submit(B, Op::Recv { socket: far }, 4);
        for (cut, from, to) in [(there, A, B), (back, B, A)] {
            if cut {
                pair.world.cut(ip(from), ip(to));
            }
        }
        let before = pair.world.now();
        pair.send(A, near, b"ping", 5);
        pair.send(B, far, b"ping", 6);
        pair.run_ms(9_900);
        assert_eq!(received(&mut pair, A, 3).1.or(received(&mut pair, B, 4).1), None, "not before its time");
        pair.run_ms(50_100);
        assert_eq!(received(&mut pair, A, 3).1, Some(ErrorKind::TimedOut), "{there} {back}");
        assert_eq!(received(&mut pair, B, 4).1, Some(ErrorKind::TimedOut), "{there} {back}");
        assert!(pair.world.now().since(before) == 60_000 * MS);
    }
}

#[test]
fn goodbyes_and_resets_do_not_cross_a_cut() {
    let mut pair = Pair::new(23);
    let (near, far) = pair.connect(StreamKind::Replication);
    pair.submit(B, Op::Recv { socket: far }, 3);
    pair.world.cut(ip(A), ip(B));
    pair.submit(A, Op::Close { socket: near }, 4);
    assert!(pair.expect(A, 4).result.is_ok());
    pair.run_ms(60_000);
    // The kernel of A has given the FIN up. What B sends is answered with a RST, which is lost as well.
    pair.send(B, far, b"hello", 5);
    pair.run_ms(5_000);
    assert_eq!(received(&mut pair, B, 3), (Vec::new(), None));
    pair.world.heal(ip(A), ip(B));
    pair.run_ms(60_000);
    assert_eq!(received(&mut pair, B, 3), (Vec::new(), None), "nobody repeats a RST");
    pair.send(B, far, b"hello", 6);
    assert_eq!(pair.expect(B, 3).result.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // A refusal is a RST, too.
    pair.world.cut(ip(B), ip(A));
    let to = SocketAddr::new(ip(B), 9);
    pair.submit(A, Op::Connect { local: None, to, kind: StreamKind::Replication }, 7);
    assert_eq!(pair.expect(A, 7).result.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn acknowledgements_do_not_cross_a_cut() {
    let mut pair = Pair::new(24);
    let (near, far) = pair.connect(StreamKind::Client);
    pair.submit(B, Op::Recv { socket: far }, 3);
    pair.world.cut(ip(B), ip(A));
    let mut got = 0;
    // More than the stream holds: the send needs acknowledgements.
    pair.send(A, near, &vec![1; 5 << 20], 4);
    let mut take = |pair: &mut Pair, ms| {
        pair.run_ms(ms);
        let (bytes, error) = received(pair, B, 3);
        if error.is_some() {
            // Out of buffers.
            pair.submit(B, Op::Recv { socket: far }, 3);
        }
        got += bytes.len();
        got
    };
    take(&mut pair, 15_000);
    assert_eq!(take(&mut pair, 15_000), 4 << 20);
    assert!(pair.seen[A].is_empty());
    pair.world.heal(ip(B), ip(A));
    assert_eq!(take(&mut pair, 60_000), 5 << 20);
    assert!(pair.expect(A, 4).result.is_ok());
}

#[test]
fn the_tap_shows_what_mesh_streams_carried() {
    let mut pair = Pair::new(25);
    let (near, far) = pair.connect(StreamKind::Replication);
    pair.send(A, near, b"before", 3);
    pair.run_ms(10);
    assert!(pair.world.tap().is_empty());
    pair.world.set_tap(true);
    pair.send(A, near, &vec![7; 200_000], 4);
    pair.send(B, far, b"back", 5);
    pair.run_ms(100);
    let seen = pair.world.tap();
    let (there, back): (Vec<Sent>, Vec<Sent>) = seen.into_iter().partition(|sent| sent.side == 0);
    assert_eq!(there.iter().map(|sent| sent.bytes.len()).sum::<usize>(), 200_000);
    assert!(there.iter().all(|sent| (sent.from, sent.to) == (ip(A), port_of(B)) && sent.conn == there[0].conn));
    let [back] = &back[..] else { panic!("{back:?}") };
    assert_eq!((&back.bytes[..], back.from, back.to.ip(), back.conn), (&b"back"[..], ip(B), ip(A), there[0].conn));
    assert!(pair.world.tap().is_empty());
}

#[test]
fn the_world_counts_events_and_turns() {
    let mut pair = Pair::new(26);
    let before = pair.world.stats();
    pair.connect(StreamKind::Replication);
    let after = pair.world.stats();
    assert!(after.events >= before.events + 2, "{after:?}");
    assert!(after.turns >= before.turns + 4, "{after:?}");
}

#[test]
fn a_process_that_dies_with_bytes_unread_breaks_its_stream_off_at_any_byte() {
    let payload: Vec<u8> = (0..300_000u32).map(|at| (at * 7 + at / 251) as u8).collect();
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let mut pair = Pair::new(seed);
        pair.world.set_delay(ip(A), ip(B), 20 * MS);
        let (near, far) = pair.connect(StreamKind::Replication);
        pair.submit(B, Op::Recv { socket: far }, 3);
        pair.send(B, far, b"unread", 4);
        pair.run_ms(100);
        pair.send(A, near, &payload, 5);
        pair.run_ms(1);
        pair.world.kill(pair.nodes[A]);
        pair.run_ms(100);
        let (got, error) = received(&mut pair, B, 3);
        assert_eq!(got, payload[..got.len()]);
        assert_eq!(error, Some(ErrorKind::ConnectionReset));
        lengths.insert(got.len());
    }
    assert!(lengths.len() > 10, "{lengths:?}");
}
