//! The format once more, byte by byte and without the crate: what files a log has after given appends.

use std::collections::BTreeMap;

use crate::naive_state::NaiveState;

/// CRC-32C, bit by bit: reflected polynomial 0x82F63B78.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Zig-zag, then groups of seven bits, low first.
pub(crate) fn varint(value: i64) -> Vec<u8> {
    let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() + 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

fn nullable(bytes: Option<&[u8]>) -> Vec<u8> {
    match bytes {
        None => varint(-1),
        Some(bytes) => [varint(i64::try_from(bytes.len()).unwrap()), bytes.to_vec()].concat(),
    }
}

#[derive(Clone, Debug)]
pub(crate) struct NaiveRecord {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(&'static str, Option<Vec<u8>>)>,
}

impl NaiveRecord {
    fn bytes(&self, base_timestamp: i64, delta: i64) -> Vec<u8> {
        let mut body = vec![0];
        body.extend(varint(self.timestamp - base_timestamp));
        body.extend(varint(delta));
        body.extend(nullable(self.key.as_deref()));
        body.extend(nullable(self.value.as_deref()));
        body.extend(varint(i64::try_from(self.headers.len()).unwrap()));
        for (key, value) in &self.headers {
            body.extend(nullable(Some(key.as_bytes())));
            body.extend(nullable(value.as_deref()));
        }
        [varint(i64::try_from(body.len()).unwrap()), body].concat()
    }
}

/// An uncompressed batch.
#[derive(Clone, Debug)]
pub(crate) struct NaiveBatch {
    pub(crate) base_offset: i64,
    pub(crate) epoch: i32,
    pub(crate) attributes: i16,
    /// For time of append.
    pub(crate) append_time: Option<i64>,
    pub(crate) producer: (i64, i16, i32),
    pub(crate) records: Vec<NaiveRecord>,
}

impl NaiveBatch {
    pub(crate) fn plain(base_offset: i64, epoch: i32, records: &[NaiveRecord]) -> Self {
        let records = records.to_vec();
        Self { base_offset, epoch, attributes: 0, append_time: None, producer: (-1, -1, -1), records }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let base_timestamp = self.records[0].timestamp;
        let max_timestamp = self.records.iter().map(|record| record.timestamp).max().unwrap();
        let count = i32::try_from(self.records.len()).unwrap();
        let stamp = if self.append_time.is_some() { 8 } else { 0 };
        let mut covered = Vec::new();
        covered.extend((self.attributes | stamp).to_be_bytes());
        covered.extend((count - 1).to_be_bytes());
        covered.extend(base_timestamp.to_be_bytes());
        covered.extend(self.append_time.unwrap_or(max_timestamp).to_be_bytes());
        covered.extend(self.producer.0.to_be_bytes());
        covered.extend(self.producer.1.to_be_bytes());
        covered.extend(self.producer.2.to_be_bytes());
        covered.extend(count.to_be_bytes());
        for (delta, record) in (0..).zip(&self.records) {
            covered.extend(record.bytes(base_timestamp, delta));
        }
        let mut batch = self.base_offset.to_be_bytes().to_vec();
        // Epoch, magic and CRC lie between the length field and what the CRC covers.
        batch.extend(i32::try_from(4 + 1 + 4 + covered.len()).unwrap().to_be_bytes());
        batch.extend(self.epoch.to_be_bytes());
        batch.push(2);
        batch.extend(crc32c(&covered).to_be_bytes());
        batch.extend(covered);
        batch
    }
}

/// What a leader makes of a client's bytes, whatever their codec.
pub(crate) fn stamped(batch: &[u8], base_offset: i64, epoch: i32, append_time: Option<i64>) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&epoch.to_be_bytes());
    if let Some(time) = append_time {
        batch[22] |= 8;
        batch[35..43].copy_from_slice(&time.to_be_bytes());
        let crc = crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    batch
}

pub(crate) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[derive(Debug)]
struct NaiveSegment {
    base: i64,
    log: Vec<u8>,
    index: Vec<u8>,
    time_index: Vec<u8>,
    aborted: Vec<u8>,
    /// The producers where it begins.
    snapshot: Vec<u8>,
    bytes_since_entry: usize,
    /// Largest timestamp so far and the last offset of the first batch with it; -1 is none.
    largest: (i64, i64),
    /// Timestamp of the newest entry.
    indexed_time: i64,
}

impl NaiveSegment {
    fn new(base: i64, snapshot: Vec<u8>) -> Self {
        let (log, index, time_index, aborted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            base,
            log,
            index,
            time_index,
            aborted,
            snapshot,
            bytes_since_entry: 0,
            largest: (-1, base),
            indexed_time: -1,
        }
    }

    fn add(&mut self, batch: &[u8], interval_bytes: usize) {
        let last_offset = i64_at(batch, 0) + i64::from(i32_at(batch, 23));
        if i64_at(batch, 35) > self.largest.0 {
            self.largest = (i64_at(batch, 35), last_offset);
        }
        if self.bytes_since_entry > interval_bytes {
            self.index.extend(i32::try_from(last_offset - self.base).unwrap().to_be_bytes());
            self.index.extend(i32::try_from(self.log.len()).unwrap().to_be_bytes());
            self.add_time();
            self.bytes_since_entry = 0;
        }
        self.log.extend(batch);
        self.bytes_since_entry += batch.len();
    }

    fn add_time(&mut self) {
        let (timestamp, offset) = self.largest;
        if timestamp > self.indexed_time {
            self.time_index.extend(timestamp.to_be_bytes());
            self.time_index.extend(i32::try_from(offset - self.base).unwrap().to_be_bytes());
            self.indexed_time = timestamp;
        }
    }
}

/// The files of a log that rolls by size alone.
#[derive(Debug)]
pub(crate) struct NaiveLog {
    pub(crate) log_end: i64,
    segment_bytes: usize,
    interval_bytes: usize,
    segments: Vec<NaiveSegment>,
    state: NaiveState,
}

impl NaiveLog {
    pub(crate) fn new(segment_bytes: usize, interval_bytes: usize) -> Self {
        let segments = vec![NaiveSegment::new(0, Vec::new())];
        Self { log_end: 0, segment_bytes, interval_bytes, segments, state: NaiveState::default() }
    }

    /// One append of several batches, offsets assigned.
    pub(crate) fn append(&mut self, batches: &[Vec<u8>]) {
        let bytes: usize = batches.iter().map(Vec::len).sum();
        let active = self.segments.last().unwrap();
        if !active.log.is_empty() && active.log.len() + bytes > self.segment_bytes {
            self.roll();
        }
        for batch in batches {
            let active = self.segments.last_mut().unwrap();
            active.add(batch, self.interval_bytes);
            active.aborted.extend(self.state.apply(batch).unwrap_or_default());
            self.log_end = i64_at(batch, 0) + i64::from(i32_at(batch, 23)) + 1;
        }
    }

    pub(crate) fn roll(&mut self) {
        self.segments.last_mut().unwrap().add_time();
        self.segments.push(NaiveSegment::new(self.log_end, self.state.snapshot()));
    }

    /// Whether the newest segment holds nothing and begins at the log end.
    pub(crate) fn is_active_empty(&self) -> bool {
        self.segments.last().unwrap().log.is_empty()
    }

    /// All files after a close.
    pub(crate) fn close(mut self) -> BTreeMap<String, Vec<u8>> {
        self.segments.last_mut().unwrap().add_time();
        let mut files = BTreeMap::new();
        for segment in self.segments {
            let name = |kind: &str| format!("{:020}.{kind}", segment.base);
            files.insert(name("log"), segment.log);
            files.insert(name("index"), segment.index);
            files.insert(name("timeindex"), segment.time_index);
            if !segment.aborted.is_empty() {
                files.insert(name("txnindex"), segment.aborted);
            }
            if segment.base > 0 {
                files.insert(name("snapshot"), segment.snapshot);
            }
        }
        if self.log_end > 0 {
            files.insert(format!("{:020}.snapshot", self.log_end), self.state.snapshot());
        }
        files.insert("leader-epoch-checkpoint".to_owned(), self.state.epochs());
        files
    }
}

#[test]
fn the_naive_checksum_is_castagnolis() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(varint(-1), [1]);
    assert_eq!(varint(300), [0xd8, 0x04]);
}
