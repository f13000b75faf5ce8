//! Batches as plain data, encoded and decoded one field after the other: what rebuilt batches are compared with, and
//! what tests make batches of that no builder makes.

use crate::record::{BatchView, Compression, compress};

/// A record with everything that it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NaiveRecord {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A batch with everything that it says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the bits of the format")]
pub(crate) struct NaiveBatch {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) codec: Compression,
    pub(crate) is_append_time: bool,
    pub(crate) is_transactional: bool,
    pub(crate) is_control: bool,
    pub(crate) has_horizon: bool,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) records: Vec<NaiveRecord>,
}

impl NaiveBatch {
    /// Of records whose offsets follow one another, as a plain producer writes it.
    pub(crate) fn plain(base_offset: i64, records: &[(i64, Option<&str>, Option<&str>)]) -> Self {
        let owned = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        let records: Vec<NaiveRecord> = (base_offset..)
            .zip(records)
            .map(|(offset, (timestamp, key, value))| NaiveRecord {
                offset,
                timestamp: *timestamp,
                key: owned(*key),
                value: owned(*value),
                headers: Vec::new(),
            })
            .collect();
        Self {
            base_offset,
            last_offset: records.last().unwrap().offset,
            leader_epoch: 0,
            codec: Compression::None,
            is_append_time: false,
            is_transactional: false,
            is_control: false,
            has_horizon: false,
            base_timestamp: records[0].timestamp,
            max_timestamp: records.iter().map(|record| record.timestamp).max().unwrap(),
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            records,
        }
    }

    /// The marker of a transaction.
    pub(crate) fn marker(offset: i64, producer_id: i64, is_commit: bool, timestamp: i64) -> Self {
        let mut marker = Self::plain(offset, &[(timestamp, None, None)]);
        marker.records[0].key = Some(vec![0, 0, 0, u8::from(is_commit)]);
        marker.records[0].value = Some(vec![0, 0, 0, 0, 0, 9]);
        (marker.is_transactional, marker.is_control) = (true, true);
        (marker.producer_id, marker.producer_epoch) = (producer_id, 0);
        marker
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        for record in &self.records {
            let record = self.encode_record(record);
            varint(&mut plain, record.len() as i128);
            plain.extend(record);
        }
        let mut records = Vec::new();
        compress::compress(self.codec, None, &plain, &mut records).unwrap();
        let bit = |is_set: bool, at: u16| u16::from(is_set) << at;
        let attributes = self.codec.code()
            | bit(self.is_append_time, 3)
            | bit(self.is_transactional, 4)
            | bit(self.is_control, 5)
            | bit(self.has_horizon, 6);
        let mut signed = Vec::new();
        signed.extend(attributes.to_be_bytes());
        signed.extend(i32::try_from(self.last_offset - self.base_offset).unwrap().to_be_bytes());
        signed.extend(self.base_timestamp.to_be_bytes());
        signed.extend(self.max_timestamp.to_be_bytes());
        signed.extend(self.producer_id.to_be_bytes());
        signed.extend(self.producer_epoch.to_be_bytes());
        signed.extend(self.base_sequence.to_be_bytes());
        signed.extend(i32::try_from(self.records.len()).unwrap().to_be_bytes());
        if !self.records.is_empty() {
            signed.extend(records);
        }
        let mut bytes = self.base_offset.to_be_bytes().to_vec();
        bytes.extend(i32::try_from(signed.len() + 9).unwrap().to_be_bytes());
        bytes.extend(self.leader_epoch.to_be_bytes());
        bytes.push(2);
        bytes.extend(crate::record::crc32c(&signed).to_be_bytes());
        bytes.extend(signed);
        bytes
    }

    fn encode_record(&self, record: &NaiveRecord) -> Vec<u8> {
        let mut out = vec![0];
        varint(&mut out, i128::from(record.timestamp.wrapping_sub(self.base_timestamp)));
        varint(&mut out, i128::from(record.offset - self.base_offset));
        nullable(&mut out, record.key.as_deref());
        nullable(&mut out, record.value.as_deref());
        varint(&mut out, record.headers.len() as i128);
        for (key, value) in &record.headers {
            nullable(&mut out, Some(key.as_bytes()));
            nullable(&mut out, value.as_deref());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let view = BatchView::parse(bytes, u32::MAX).unwrap();
        assert_eq!(view.bytes().len(), bytes.len());
        view.verify_crc().unwrap();
        let header = *view.header();
        let body = view.body(u32::MAX >> 1).unwrap();
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let records = body.records().map(Result::unwrap).map(|record| NaiveRecord {
            offset: record.offset.value(),
            timestamp: record.timestamp.value(),
            key: owned(record.key),
            value: owned(record.value),
            headers: record.headers().map(|(key, value)| (key.to_owned(), owned(value))).collect(),
        });
        let bits = header.attributes.bits();
        assert_eq!(bits >> 7, 0, "no other bits");
        Self {
            base_offset: header.base_offset.value(),
            last_offset: header.last_offset().value(),
            leader_epoch: header.leader_epoch.map_or(-1, crate::units::LeaderEpoch::value),
            codec: header.attributes.compression(),
            is_append_time: bits & 8 != 0,
            is_transactional: bits & 16 != 0,
            is_control: bits & 32 != 0,
            has_horizon: bits & 64 != 0,
            base_timestamp: header.base_timestamp.value(),
            max_timestamp: header.max_timestamp.value(),
            producer_id: header.producer_id.map_or(-1, crate::units::ProducerId::value),
            producer_epoch: header.producer_epoch.map_or(-1, crate::units::ProducerEpoch::value),
            base_sequence: header.base_sequence.map_or(-1, crate::units::Sequence::value),
            records: records.collect(),
        }
    }

    /// What is left with `kept` of the records, and with `horizon` if none is there yet: format 11.4, field by field.
    pub(crate) fn with_records(&self, kept: Vec<NaiveRecord>, horizon: Option<i64>) -> Self {
        let mut rebuilt = Self { records: kept, ..self.clone() };
        if let Some(horizon) = horizon.filter(|_| !self.has_horizon) {
            (rebuilt.has_horizon, rebuilt.base_timestamp) = (true, horizon);
        } else if !self.has_horizon {
            rebuilt.base_timestamp = rebuilt.records[0].timestamp;
        }
        if !self.is_append_time {
            rebuilt.max_timestamp = rebuilt.records.iter().map(|record| record.timestamp).max().unwrap();
        }
        rebuilt
    }

    /// The header alone.
    pub(crate) fn emptied(&self) -> Self {
        Self { records: Vec::new(), codec: Compression::None, has_horizon: false, base_timestamp: -1, ..self.clone() }
    }
}

fn varint(out: &mut Vec<u8>, value: i128) {
    let mut bits = if value < 0 { (-value - 1) * 2 + 1 } else { value * 2 };
    while bits >= 128 {
        out.push(u8::try_from(bits % 128).unwrap() + 128);
        bits /= 128;
    }
    out.push(u8::try_from(bits).unwrap());
}

fn nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            varint(out, bytes.len() as i128);
            out.extend_from_slice(bytes);
        }
        None => varint(out, -1),
    }
}

/// Random batches.
pub(crate) struct Random(pub(crate) fastrand::Rng);

impl Random {
    fn bytes(&mut self, bytes_max: usize) -> Option<Vec<u8>> {
        let bytes = self.0.usize(0..=bytes_max);
        (self.0.u8(..) > 40).then(|| (0..bytes).map(|_| self.0.u8(0..=9)).collect())
    }

    fn timestamp(&mut self) -> i64 {
        match self.0.u8(0..30) {
            0 => self.0.i64(..),
            1 => -1,
            2..10 => 1_700_000_000_000 + self.0.i64(-100_000..100_000),
            _ => 1_700_000_000_000 + self.0.i64(0..200),
        }
    }

    fn records(&mut self, base_offset: i64) -> Vec<NaiveRecord> {
        let (count, mut offset) = (self.0.usize(1..30), base_offset);
        let is_sparse = self.0.bool();
        (0..count)
            .map(|_| {
                offset += if is_sparse { self.0.i64(0..3) } else { 0 };
                let value_max = if self.0.u8(..) < 6 { 20_000 } else { 60 };
                let headers = if self.0.u8(0..6) == 0 { self.0.usize(0..4) } else { 0 };
                let record = NaiveRecord {
                    offset,
                    timestamp: self.timestamp(),
                    key: self.bytes(20),
                    value: self.bytes(value_max),
                    headers: (0..headers).map(|_| ("ä key".to_owned(), self.bytes(20))).collect(),
                };
                offset += 1;
                record
            })
            .collect()
    }

    /// Any codec, both kinds of time, with and without horizon and producer, offsets with and without gaps.
    pub(crate) fn batch(&mut self, base_offset: i64) -> NaiveBatch {
        let mut records = self.records(base_offset);
        let (is_append_time, has_horizon, has_producer) = (self.0.u8(0..4) == 0, self.0.u8(0..4) == 0, self.0.bool());
        let stamped = self.timestamp();
        if is_append_time {
            for record in &mut records {
                record.timestamp = stamped;
            }
        }
        let first = records[0].timestamp;
        NaiveBatch {
            base_offset,
            last_offset: records.last().unwrap().offset + self.0.i64(0..3),
            leader_epoch: self.0.i32(-1..9),
            codec: *self.0.choice(&Compression::ALL).unwrap(),
            is_append_time,
            is_transactional: has_producer && self.0.bool(),
            is_control: false,
            has_horizon,
            base_timestamp: if has_horizon || is_append_time { self.timestamp() } else { first },
            max_timestamp: records.iter().map(|record| record.timestamp).max().unwrap(),
            producer_id: if has_producer { self.0.i64(0..5) } else { -1 },
            producer_epoch: if has_producer { self.0.i16(0..3) } else { -1 },
            base_sequence: if has_producer { self.0.i32(0..) } else { -1 },
            records,
        }
    }
}
