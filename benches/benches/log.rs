//! The log by itself: appending, checksums, scanning. `cargo bench -p godwit-benches`.

use std::hint::black_box;

use benches::{Appender, GROUP_RECORDS, Writer, full_segment, mapped_files, memory, value_of_record};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wal::recovery::scan_segment;
use wal::{SEGMENT_HEADER_BYTES, crc32c, frames, key_hash};

/// A group of 64 records, sealed: record, payload and header checksums are in it, no sync is.
fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for record_bytes in [128, 1024] {
        let value = value_of_record(record_bytes);
        let bytes = (GROUP_RECORDS * record_bytes) as u64;
        group.throughput(Throughput::ElementsAndBytes { elements: GROUP_RECORDS as u64, bytes });
        let mut appender = Appender::new(memory());
        group.bench_function(BenchmarkId::new("memory", record_bytes), |bencher| {
            bencher.iter(|| appender.group(black_box(&value)));
        });
        let mut appender = Appender::new(mapped_files().expect("temporary files"));
        group.bench_function(BenchmarkId::new("mapped_file", record_bytes), |bencher| {
            bencher.iter(|| appender.group(black_box(&value)));
        });
        let mut writer = Writer::new(mapped_files().expect("temporary files"), &value);
        group.bench_function(BenchmarkId::new("mapped_file_with_index", record_bytes), |bencher| {
            bencher.iter(|| writer.group(black_box(&value)));
        });
    }
}

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [64, 4096, 65536] {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("crc32c", len), |bencher| bencher.iter(|| crc32c(black_box(&bytes))));
    }
    for len in [16, 256] {
        let key = vec![b'k'; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("key_hash", len), |bencher| bencher.iter(|| key_hash(black_box(&key))));
    }
}

/// Reading back: every checksum is verified.
fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    let value = value_of_record(128);

    let (_, header, segment) = full_segment(1024 * 1024, &value);
    let body = &segment[SEGMENT_HEADER_BYTES..];
    let read = || {
        // The last few bytes, too few for a record, are blank.
        let verified = frames(body, header.first_frame(), header.cookie).map_while(Result::ok).map(|frame| {
            frame.verify_records().expect("records");
            u64::from(frame.records_count())
        });
        verified.sum::<u64>()
    };
    assert!(read() >= records_in(body, 128), "all of it is read");
    group.throughput(Throughput::ElementsAndBytes { elements: records_in(body, 128), bytes: body.len() as u64 });
    group.bench_function("frames_and_records_1_mib", |bencher| bencher.iter(read));

    let (name, _, segment) = full_segment(16 * 1024 * 1024, &value);
    let bytes = segment.len() as u64;
    group.throughput(Throughput::ElementsAndBytes { elements: records_in(&segment, 128), bytes });
    group.bench_function("scan_segment_16_mib", |bencher| bencher.iter(|| scan_segment(&name, black_box(&segment))));
}

/// How many records of this length fill the bytes, in groups with a header each.
fn records_in(bytes: &[u8], record_bytes: usize) -> u64 {
    let group_bytes = GROUP_RECORDS * record_bytes + wal::FRAME_HEADER_BYTES;
    (bytes.len() / group_bytes * GROUP_RECORDS) as u64
}

criterion_group!(benches, append, checksum, scan);
criterion_main!(benches);
